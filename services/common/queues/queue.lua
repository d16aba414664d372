-- One queue's state machine. Each call is one atomic operation: a ticket is always either waiting or granted, and both its
-- worker and its gateway are told of a grant in the same operation.
--
-- KEYS[1] is the queue's prefix. keys.py puts `key`, a table of all names with that prefix, before this text. ARGV[1] names
-- the operation, the rest are its arguments. All times are by Redis' clock, so the hosts' clocks need not agree.
--
-- Order. A queue is sorted by rank = virtual start - priority * STEP: by priority, then by virtual start, then by member,
-- which begins with the arrival. Virtual starts are start-time fair queueing over token counters: a ticket starts
-- at its tenant's clock, or at the queue's virtual time where that is later, and moves the clock on by cost / weight.
-- Virtual time is the start of the ticket that was taken last. Each priority has its own clocks.

local STEP = 281474976710656 -- 2^48: far above any clock, and 7 * STEP leaves a double a resolution of 1/4
local KEEP_MS = 3600000      -- structures outlive their last write by this; longer than any ticket waits
local FORGET_MS = 60000      -- the same for lists that someone is expected to read at once
local AFFINITY_MS = 1800000
local RATE_MS = 30000
local HOLD_MS = 120000
local AT_ONCE = 32           -- tickets that one call drops or promotes: no call takes long

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(now_us / 1000)

local function exact(number) return string.format('%.17g', number) end

local function score(zset, member)
  local found = redis.call('ZSCORE', zset, member)
  return found and tonumber(found)
end

local function put(zset, number, member)
  redis.call('ZADD', zset, exact(number), member)
  redis.call('PEXPIRE', zset, KEEP_MS)
end

local function set_fields(hash, ...)
  redis.call('HSET', hash, ...)
  redis.call('PEXPIRE', hash, KEEP_MS)
end

local function alive(zset, who)
  local until_ms = score(zset, who)
  return until_ms and until_ms > now
end

-- Load: sums decay, rates with RATE_MS and holds with HOLD_MS, so they need no buckets.

local function decayed(name, over_ms)
  local row = redis.call('HMGET', key.load, name .. ':n', name .. ':at', name .. ':since')
  if not row[1] then return 0, now end
  return tonumber(row[1]) * math.exp((tonumber(row[2]) - now) / over_ms), tonumber(row[3])
end

local function add(name, number, over_ms)
  local n, since = decayed(name, over_ms)
  set_fields(key.load, name .. ':n', exact(n + number), name .. ':at', now, name .. ':since', since)
end

local function count(name) add(name, 1, RATE_MS) end

-- Mean ms that a slot is held, over about two minutes: ten thousand slots and one give it alike. nil = not known yet.
local function hold_ms()
  local closed = decayed('closed', HOLD_MS)
  return closed > 0 and decayed('held', HOLD_MS) / closed or nil
end

-- Arrivals and refusals are added up, so both are counted from the moment when the first of either came.
local function rate_per_s(name)
  local n, since = decayed(name, RATE_MS)
  for _, other in ipairs({'arrivals', 'refusals'}) do
    local _, other_since = decayed(other, RATE_MS)
    since = math.min(since, other_since)
  end
  local seen_ms = math.max(1000, now - since)
  return n / (RATE_MS / 1000 * (1 - math.exp(-seen_ms / RATE_MS)))
end

-- Free slots of live workers, as of their last ask; and the mean ms between two slots that become free were all of them
-- busy, nil where it is not known yet. What was granted since is not free; a ticket whose worker was rung still counts as waiting.
local function capacity()
  local slots, free, hold = 0, 0, hold_ms()
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', key.workers, '(' .. now, '+inf')) do
    local row = redis.call('HMGET', key.worker .. worker, 'slots', 'unfilled')
    if row[1] and row[1] ~= '0' then slots, free = slots + tonumber(row[1]), free + tonumber(row[2]) end
  end
  return free, hold and slots > 0 and hold / slots or nil
end

-- Tickets

local FIELDS = {'member', 'line', 'tenant', 'priority', 'charge', 'gateway', 'body', 'affinity', 'lease', 'worker', 'record'}

local function read_ticket(id)
  local row, ticket = redis.call('HMGET', key.ticket .. id, unpack(FIELDS)), {id = id}
  if not row[1] then return nil end
  for i, name in ipairs(FIELDS) do ticket[name] = row[i] end
  ticket.priority, ticket.charge = tonumber(ticket.priority), tonumber(ticket.charge)
  return ticket
end

-- The queue of one worker, or, for '', the common queue, which is open to all. A ticket's stored field `line` names its
-- worker; the name stays, as services of two releases share a Redis during an upgrade.
local function queue_of(worker) return worker == '' and key.queue or key.worker_queue .. worker end

local function start_of(ticket)
  local rank = score(queue_of(ticket.line), ticket.member)
  return rank and rank + ticket.priority * STEP
end

local function virtual_time(priority) return score(key.fair .. priority, '') or 0 end

-- Moves a tenant's clock, and those of its waiting tickets that start at `from` or later. Neither falls behind virtual
-- time: what a tenant did not use while it could is not saved up.
local function shift(tenant, priority, from, by)
  local fair, floor = key.fair .. priority, virtual_time(priority)
  put(fair, math.max(floor, (score(fair, tenant) or floor) + by), tenant)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key.tenant .. tenant, priority, priority)) do
    local ticket = read_ticket(id)
    local start = ticket and start_of(ticket)
    if start and start >= from then
      put(queue_of(ticket.line), math.max(floor, start + by) - priority * STEP, ticket.member)
    end
  end
end

local function unlink(ticket)
  redis.call('ZREM', queue_of(ticket.line), ticket.member)
  redis.call('ZREM', key.deadlines, ticket.id)
  redis.call('ZREM', key.promotions, ticket.id)
  redis.call('ZREM', key.tenant .. ticket.tenant, ticket.id)
end

-- Removes a ticket that never got a slot, and refunds its tenant.
local function drop(ticket)
  local start = start_of(ticket)
  unlink(ticket)
  redis.call('DEL', key.ticket .. ticket.id)
  if start and ticket.charge > 0 then shift(ticket.tenant, ticket.priority, start, -ticket.charge) end
end

-- Moves a ticket from a worker's queue to the common one; its rank stays.
local function promote(id)
  local ticket = read_ticket(id)
  redis.call('ZREM', key.promotions, id)
  if not ticket or ticket.line == '' then return end
  local rank = score(queue_of(ticket.line), ticket.member)
  redis.call('ZREM', queue_of(ticket.line), ticket.member)
  put(key.queue, rank, ticket.member)
  redis.call('HSET', key.ticket .. id, 'line', '')
end

-- Wakes a worker: `worker`, or the one with most idle slots. A ring is only a hint: workers also look by themselves.
local function ring(worker)
  if not worker then
    for _, idle in ipairs(redis.call('ZREVRANGE', key.idle, 0, -1)) do
      if alive(key.workers, idle) then worker = idle break end
      redis.call('ZREM', key.idle, idle)
    end
    if not worker then return false end
  end
  local bell = key.bell .. worker
  if redis.call('LLEN', bell) < AT_ONCE then redis.call('RPUSH', bell, '') end
  redis.call('PEXPIRE', bell, FORGET_MS)
  if tonumber(redis.call('ZINCRBY', key.idle, -1, worker)) <= 0 then redis.call('ZREM', key.idle, worker) end
  return true
end

-- Promotes and drops tickets whose time has come, a bounded number at a time. Operations on tickets begin with it.
local function reap()
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key.promotions, '-inf', now, 'LIMIT', 0, AT_ONCE)) do promote(id) end
  local dropped = 0
  local function drop_id(id)
    local ticket = read_ticket(id)
    if ticket then drop(ticket) else redis.call('ZREM', key.deadlines, id) end
    dropped = dropped + 1
  end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', key.deadlines, '-inf', now, 'LIMIT', 0, AT_ONCE)) do drop_id(id) end
  for _, gateway in ipairs(redis.call('ZRANGEBYSCORE', key.gateways, '-inf', now)) do
    for _, id in ipairs(redis.call('ZRANGE', key.deadlines, 0, -1)) do
      if dropped >= AT_ONCE then return end
      if redis.call('HGET', key.ticket .. id, 'gateway') == gateway then drop_id(id) end
    end
    redis.call('ZREM', key.gateways, gateway)
  end
end

-- The ticket that this worker should serve next, still linked; nil where there is none.
local function next_ticket(worker)
  while true do
    local own = redis.call('ZRANGE', queue_of(worker), 0, 0, 'WITHSCORES')
    local common = redis.call('ZRANGE', key.queue, 0, 0, 'WITHSCORES')
    local owner, head = worker, own
    -- A rank's class is minus its priority: a worker's own queue comes first only within a class.
    local function class(row) return math.floor(tonumber(row[2]) / STEP) end
    if not own[1] or (common[1] and class(common) < class(own)) then owner, head = '', common end
    if not head[1] then return nil end
    local ticket = read_ticket(string.sub(head[1], 18))
    if not ticket then
      redis.call('ZREM', queue_of(owner), head[1])
    elseif not alive(key.gateways, ticket.gateway) or (score(key.deadlines, ticket.id) or 0) <= now then
      drop(ticket)
    else
      return ticket
    end
  end
end

local function grant(ticket, worker, lease, record, grant_ms)
  local fair = key.fair .. ticket.priority
  local reached = math.max(virtual_time(ticket.priority), start_of(ticket))
  unlink(ticket)
  put(fair, reached, '')
  redis.call('ZREMRANGEBYSCORE', fair, '-inf', '(' .. exact(reached)) -- clocks that lag behind count for nothing
  redis.call('HSET', key.ticket .. ticket.id, 'lease', lease, 'worker', worker, 'record', record)
  redis.call('PEXPIRE', key.ticket .. ticket.id, grant_ms)
  redis.call('SET', key.lease .. lease, ticket.id, 'PX', grant_ms)
  redis.call('RPUSH', key.reply .. ticket.gateway, record)
  redis.call('PEXPIRE', key.reply .. ticket.gateway, FORGET_MS)
  if ticket.affinity ~= '' then redis.call('SET', key.affinity .. ticket.affinity, worker, 'PX', AFFINITY_MS) end
  count('grants')
end

local operations = {}

-- Puts a ticket into the queue; harmless when it is there already. `mode` is
--   'new':   subject to the limits;
--   'again': was admitted before Redis lost it;
--   'front': was granted by worker `avoid`, which was lost or refused it: first of its priority.
-- `arrival` (microseconds) is '' for a new one. Returns 'ok', the arrival and the number of live workers; or 'full',
-- 'tenant_full' or 'late' and after how many ms to try again.
function operations.enqueue(id, body, gateway, gateway_ttl_ms, tenant, priority, charge, remaining_ms, affinity,
                            affinity_wait_ms, max_waiting, max_waiting_per_tenant, mode, arrival, avoid)
  reap()
  put(key.gateways, now + gateway_ttl_ms, gateway)
  local workers = redis.call('ZCOUNT', key.workers, '(' .. now, '+inf')
  local known = redis.call('HGET', key.ticket .. id, 'member')
  if known then return {'ok', tonumber(string.sub(known, 1, 16)), workers} end

  priority, charge, remaining_ms = tonumber(priority), tonumber(charge), math.ceil(tonumber(remaining_ms))
  local floor = virtual_time(priority)
  local clock = math.max(floor, score(key.fair .. priority, tenant) or 0)
  local start = clock
  if mode == 'front' then
    start = floor
    redis.call('ZREM', key.idle, avoid)
    if redis.call('GET', key.affinity .. affinity) == avoid then redis.call('DEL', key.affinity .. affinity) end
  end
  local rank = start - priority * STEP

  if mode == 'new' then
    local full = redis.call('ZCARD', key.deadlines) >= tonumber(max_waiting)
    local tenant_full = redis.call('ZCARD', key.tenant .. tenant) >= tonumber(max_waiting_per_tenant)
    local free, each_ms = capacity()
    if full then count('refusals') end
    if full or tenant_full then return {full and 'full' or 'tenant_full', math.ceil(each_ms or 1000)} end
    local wait_ms = (each_ms or 0) * (redis.call('ZCOUNT', key.queue, '-inf', exact(rank)) + 1 - free)
    if wait_ms > remaining_ms then
      count('refusals')
      return {'late', math.ceil(wait_ms - remaining_ms)}
    end
    count('arrivals')
  end

  if arrival == '' then arrival = now_us end
  local member = string.format('%016.0f:%s', tonumber(arrival), id)
  local owner = ''
  local favourite = affinity ~= '' and redis.call('GET', key.affinity .. affinity)
  if favourite and alive(key.workers, favourite) and redis.call('HGET', key.worker .. favourite, 'slots') ~= '0' then
    if score(key.idle, favourite) then
      owner = favourite
      ring(favourite)
    elseif not ring() then
      owner = favourite -- all are busy: its own may well be the first to be free
    end
  else
    ring()
  end
  set_fields(key.ticket .. id, 'member', member, 'line', owner, 'tenant', tenant, 'priority', priority, 'charge',
             exact(charge), 'gateway', gateway, 'body', body, 'affinity', affinity)
  put(queue_of(owner), rank, member)
  put(key.deadlines, now + remaining_ms, id)
  if owner ~= '' then put(key.promotions, now + affinity_wait_ms, id) end
  if mode ~= 'front' then put(key.tenant .. tenant, priority, id) end -- a place at the front is not moved by settling
  put(key.fair .. priority, clock + charge, tenant)
  return {'ok', tonumber(arrival), workers}
end

-- A worker's heartbeat, and its ask for tickets for its `free` slots: at most `most` new ones, one for each pair of lease
-- id and encoded worker's half of the GrantRecord that follows. A lease that was granted before, in a call whose answer
-- was lost, is granted again with the same ticket. Returns the ms until a ticket in another worker's queue is open to all
-- (-1: none), then the leases that are granted.
function operations.take(worker, info, slots, free, most, worker_ttl_ms, grant_ms, closed, held_ms, ...)
  reap()
  local pairs_of_lease, granted = {...}, {}
  free, most, closed = tonumber(free), tonumber(most), tonumber(closed)
  redis.call('ZREMRANGEBYSCORE', key.workers, '-inf', now)
  put(key.workers, now + worker_ttl_ms, worker)
  if closed > 0 then
    add('closed', closed, HOLD_MS)
    add('held', tonumber(held_ms), HOLD_MS)
  end
  local fresh = 0
  for i = 1, #pairs_of_lease, 2 do
    local lease = pairs_of_lease[i]
    if redis.call('EXISTS', key.lease .. lease) == 1 then
      granted[#granted + 1] = lease
    elseif fresh < most then
      local ticket = next_ticket(worker)
      if ticket then
        grant(ticket, worker, lease, pairs_of_lease[i + 1] .. ticket.body, grant_ms)
        granted[#granted + 1] = lease
        fresh = fresh + 1
      else
        most = fresh
      end
    end
  end
  local unfilled = free - #granted
  redis.call('HSET', key.worker .. worker, 'info', info, 'slots', slots, 'unfilled', unfilled)
  redis.call('PEXPIRE', key.worker .. worker, worker_ttl_ms)
  redis.call('SET', key.card, info, 'PX', KEEP_MS)
  if slots ~= '0' and unfilled > 0 then put(key.idle, unfilled, worker) else redis.call('ZREM', key.idle, worker) end
  if redis.call('ZCARD', key.queue) > 0 then ring() end
  local promotion = redis.call('ZRANGE', key.promotions, 0, 0, 'WITHSCORES')
  return {promotion[1] and math.max(0, tonumber(promotion[2]) - now) or -1, unpack(granted)}
end

-- A gateway no longer wants a ticket: a waiting one is removed, a granted one's lease goes back to its worker. Its tenant is
-- refunded. The lease's key stays: a worker that offers the lease again, because it never heard
-- of the grant, must not get another ticket for it and then hear that it came back.
function operations.discard(id)
  local ticket = read_ticket(id)
  if not ticket then return end
  if not ticket.lease then return drop(ticket) end
  redis.call('DEL', key.ticket .. id)
  redis.call('RPUSH', key.bell .. ticket.worker, ticket.lease)
  redis.call('PEXPIRE', key.bell .. ticket.worker, FORGET_MS)
  shift(ticket.tenant, ticket.priority, 0, -ticket.charge)
end

-- A turn cost more or less than its ticket was charged for.
function operations.settle(tenant, priority, by) shift(tenant, tonumber(priority), 0, tonumber(by)) end

-- A gateway's heartbeat. Returns the number of live workers, where there is none the WorkerInfo of the last one ('' = not
-- known), then for each ticket that it waits for 'waiting', 'lost', or
-- the GrantRecord that it may have missed.
function operations.beat(gateway, gateway_ttl_ms, ...)
  put(key.gateways, now + gateway_ttl_ms, gateway)
  local workers = redis.call('ZCOUNT', key.workers, '(' .. now, '+inf')
  local answer = {workers, workers == 0 and redis.call('GET', key.card) or ''}
  for _, id in ipairs({...}) do
    local row = redis.call('HMGET', key.ticket .. id, 'member', 'record')
    answer[#answer + 1] = row[2] or (row[1] and 'waiting') or 'lost'
  end
  return answer
end

-- A gateway leaves; it has discarded its tickets.
function operations.close_gateway(gateway)
  redis.call('ZREM', key.gateways, gateway)
  redis.call('DEL', key.reply .. gateway)
end

-- A worker leaves: what waits in its queue goes to the others.
function operations.close_worker(worker)
  redis.call('ZREM', key.workers, worker)
  redis.call('ZREM', key.idle, worker)
  redis.call('DEL', key.worker .. worker, key.bell .. worker)
  for _, member in ipairs(redis.call('ZRANGE', key.worker_queue .. worker, 0, -1)) do
    promote(string.sub(member, 18))
    ring()
  end
end

-- Each live worker's WorkerInfo and how many of the slots that it had free then are still free.
function operations.workers()
  local answer = {}
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', key.workers, '(' .. now, '+inf')) do
    local row = redis.call('HMGET', key.worker .. worker, 'info', 'unfilled')
    if row[1] then answer[#answer + 1] = {row[1], tonumber(row[2])} end
  end
  return answer
end

-- Keeps what is known of this queue's workers though none may live. Returns 0 where nothing is known.
function operations.remember() return redis.call('PEXPIRE', key.card, KEEP_MS) end

-- Of several scalers one shows how many replicas this queue's stage should have. Returns 1 where that is `scaler`, for
-- another `ttl_ms`; 2 where it now is, in place of one that was silent; 0 where it is another.
function operations.lead(scaler, ttl_ms)
  local row = redis.call('HMGET', key.scaler, 'id', 'until')
  local other = row[1] and row[1] ~= scaler
  if other and tonumber(row[2]) > now then return 0 end
  set_fields(key.scaler, 'id', scaler, 'until', now + ttl_ms)
  return other and 2 or 1
end

-- A turn will ask this queue for a slot, at the latest in `within_ms`.
function operations.wake(within_ms) redis.call('SET', key.woken, '', 'PX', within_ms) end

-- Depth, longest wait in ms, 1 where a turn is on its way here, 1 where a worker is or was known; then as text: arrivals,
-- grants and refusals for want of slots a second, mean hold in ms.
function operations.stats()
  reap()
  local oldest_us = now_us
  for _, member in ipairs(redis.call('ZRANGE', key.queue, 0, -1)) do
    oldest_us = math.min(oldest_us, tonumber(string.sub(member, 1, 16)))
  end
  return {redis.call('ZCARD', key.deadlines), (now_us - oldest_us) / 1000, redis.call('EXISTS', key.woken),
          redis.call('EXISTS', key.card), exact(rate_per_s('arrivals')), exact(rate_per_s('grants')),
          exact(rate_per_s('refusals')), exact(hold_ms() or 0)}
end

return operations[ARGV[1]](unpack(ARGV, 2))
