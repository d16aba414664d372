-- What gateways ask for. Rows name their queue where a call may concern several.

local operations = {}

-- The worker in whose own queue a ticket waits, '' for the common one. Wakes whoever may take it.
local function choose_worker(affinity)
  local favourite = affinity ~= '' and redis.call('GET', key.affinity .. affinity)
  if not favourite or not alive(key.workers, favourite) or
     redis.call('HGET', key.worker .. favourite, 'drains') == '1' then
    ring()
    return ''
  end
  if score(key.idle, favourite) then
    ring(favourite)
    return favourite
  end
  return ring() and '' or favourite -- all are busy: its own may well be the first to be free
end

-- Where a new ticket of this tenant would start: behind those of its own that wait.
local function expected_start(priority, tenant)
  local start = start_of(priority, tenant)
  local last = last_of(queue_of('', priority, tenant))
  if not last then return start end
  local rank, ticket = score(key.ranks, last), read_ticket(last)
  return math.max(start, (rank or 0) + priority * STEP + (ticket and ticket.charge or 0))
end

-- Without a limit of its own, each tenant may have so many times the places that are free: one tenant alone fills eight
-- ninths of the queue, so others always find room.
local TIMES_WHAT_IS_FREE = 8

local function most_of_tenant(places)
  local most = arguments.max_waiting_per_tenant
  return most > 0 and most or TIMES_WHAT_IS_FREE * places
end

-- nil, or why a new ticket is refused and after how many ms to try again.
local function refusal(ticket, rank)
  read.depth = read.depth or redis.call('ZCARD', key.ranks)
  local places = arguments.max_waiting - read.depth
  local held = tonumber(redis.call('HGET', key.waiting, ticket.tenant) or 0)
  local free, each_ms = capacity()
  if places <= 0 then return 'full', math.ceil(each_ms or 1000) end
  if held >= most_of_tenant(places) then return 'tenant_full', math.ceil(each_ms or 1000) end
  if not each_ms then return nil end
  local wait_ms = each_ms * (redis.call('ZCOUNT', key.ranks, '-inf', exact(rank)) + 1 - free)
  if wait_ms > ticket.remaining_ms then return 'late', math.ceil(wait_ms - ticket.remaining_ms) end
end

-- Notes which tenant's ticket comes, where that tenant leaves slots to others.
local function note_tenant(ticket)
  if ticket.share_beside >= 1 then return end
  local last = redis.call('HGET', key.tenants, 'last')
  if last == ticket.tenant then return end
  set(key.tenants, 'last', ticket.tenant, 'several', last and now or 0)
end

local function admit(ticket, arrival)
  local id, priority, tenant, front = ticket.id, ticket.priority, ticket.tenant, ticket.front == 1
  local rank = rank_of(priority, front and start_of(priority, FRONT) or expected_start(priority, tenant))
  if ticket.mode == 'new' then
    local why, after_ms = refusal(ticket, rank)
    if why then
      if why ~= 'tenant_full' or arguments.max_waiting_per_tenant == 0 then -- more slots would help
        count('refusals', 1)
      end
      return {why, after_ms, 0}
    end
    count('arrivals', 1)
  elseif ticket.mode == 'front' then -- the worker that granted it is lost, or has refused it
    redis.call('ZREM', key.idle, ticket.avoid)
    if redis.call('GET', key.affinity .. ticket.affinity) == ticket.avoid then
      redis.call('DEL', key.affinity .. ticket.affinity)
    end
  end
  note_tenant(ticket)
  local worker, line = choose_worker(ticket.affinity), front and FRONT or tenant
  local deadline = now + math.ceil(ticket.remaining_ms)
  ticket.arrival, ticket.deadline, ticket.line, ticket.gateway = arrival, deadline, line, arguments.gateway
  ticket.beside = yields(priority) and
    exact(arguments.batch_share) .. ' ' .. arguments.batch_quiet_ms .. ' ' .. arguments.batch_every_ms or ''
  redis.call('HSET', key.ticket .. id, 'terms', pack_terms(ticket), 'own', worker)
  expire(key.ticket .. id, 2 * KEEP_MS) -- it outlives what names it, so that it is dropped from all of that
  insert(worker, priority, line, id, arrival)
  put(arrivals_of(priority), arrival, id)
  put(key.deadlines, deadline, id)
  put(key.ranks, rank, id)
  if worker ~= '' then put(key.promotions, now + arguments.affinity_wait_ms, id) end
  local mine = shard.gateway .. arguments.gateway
  renew(mine, redis.call('SADD', mine, of_gateway(id)) == 1)
  add_to(key.waiting, tenant, 1)
  if read.depth then read.depth = read.depth + 1 end
  return {'ok', arrival, live_workers()}
end

-- Puts tickets into their queues; harmless for one that is there already. Its `mode` is
--   'new':   subject to the limits;
--   'again': was admitted before Redis lost it;
--   'front': was granted by worker `avoid`, which was lost or refused it.
-- `front` is 1 where its turn has or had a slot: it is first of its priority. `batch_…` are the terms of batches, see
-- beside.lua. `arrival` (microseconds) is 0 for a new one. Returns for each ticket 'ok', the arrival and the number of
-- live workers; or 'full', 'tenant_full' or 'late' and after how many ms to try again. Takes O(log n) for each ticket.
function operations.enqueue()
  put(shard.gateways, now + arguments.gateway_ttl_ms, arguments.gateway)
  local answers = {}
  for i, ticket in ipairs(arguments.tickets) do
    if ticket.queue ~= queue_name then
      turn_to(ticket.queue)
      reap()
    end
    local known = read_ticket(ticket.id)
    if known then
      answers[i] = {'ok', known.arrival, live_workers()}
    else
      answers[i] = admit(ticket, ticket.arrival > 0 and ticket.arrival or now_us + i - 1)
    end
  end
  return answers
end

-- A gateway no longer wants tickets. One that waits is removed. One that was granted gives its lease back to the
-- worker, and its tenant is refunded unless it is `spent`: the worker may have worked on it. The lease's key stays: a
-- worker that never heard of the grant offers the lease again. It must not get another ticket for it and then hear that
-- the lease came back.
function operations.discard()
  for _, row in ipairs(arguments.tickets) do
    turn_to(row.queue)
    local ticket = read_ticket(row.id)
    if ticket and not ticket.lease then
      drop(ticket)
    elseif ticket then
      redis.call('DEL', key.ticket .. row.id)
      redis.call('RPUSH', key.bell .. ticket.worker, ticket.lease)
      expire(key.bell .. ticket.worker, FORGET_MS)
      if row.spent ~= 1 then move_clock(ticket.priority, ticket.tenant, -ticket.charge) end
    end
  end
end

-- Turns cost more or less than their tickets were charged for.
function operations.settle()
  for _, row in ipairs(arguments.turns) do
    turn_to(row.queue)
    move_clock(row.priority, row.tenant, row.by)
  end
end

-- A gateway's heartbeat. Returns how many of its tickets wait in this shard, and of how many dead gateways tickets are
-- still to be dropped; then for each queue the number of live workers and, where there is none, the WorkerInfo of the
-- last one ('' = not known).
function operations.beat()
  put(shard.gateways, now + arguments.gateway_ttl_ms, arguments.gateway)
  local mine = shard.gateway .. arguments.gateway
  renew(mine, false)
  local answer = {redis.call('SCARD', mine), redis.call('ZCOUNT', shard.gateways, '-inf', now)}
  for _, row in ipairs(arguments.queues) do
    turn_to(row.queue)
    local workers = live_workers()
    answer[#answer + 1] = {workers, workers == 0 and redis.call('GET', key.card) or ''}
  end
  return answer
end

-- Drops tickets of dead gateways, AT_ONCE at most. Returns how many dead gateways are left.
function operations.reap()
  reap_gateways(AT_ONCE)
  return redis.call('ZCOUNT', shard.gateways, '-inf', now)
end

-- Returns for each ticket 'waiting', 'lost', or the GrantRecord that its gateway may have missed.
function operations.look()
  local answer = {}
  for i, row in ipairs(arguments.tickets) do
    turn_to(row.queue)
    local found = redis.call('HMGET', key.ticket .. row.id, 'terms', 'record')
    answer[i] = found[2] or (found[1] and 'waiting') or 'lost'
  end
  return answer
end

-- A gateway leaves. It has discarded its tickets; what it missed is dropped as a dead gateway's.
function operations.close_gateway()
  put(shard.gateways, 0, arguments.gateway)
  reap_gateways(AT_ONCE)
end
