-- What workers, routing and the scaler ask for, and the call itself.

-- A worker's heartbeat, and its ask for tickets for its `free` slots: at most `most` new ones, one for each offer (a
-- lease id and the encoded worker's half of the GrantRecord). Where `info` is '' it is no heartbeat: what the worker
-- shows (info, card, slots, draining) stays as it is.
--
-- `ask` counts this worker's calls: one that comes after a later one, as its network has kept it back, does nothing.
-- `known` is 1 where the last answer said that the queue knows this worker. If it does not any more, Redis has lost its
-- data, maybe with grants for these offers: the worker gets nothing, and is to show itself anew.
--
-- A lease that was granted before, in a call whose answer was lost, is granted again with the same ticket. So is one of
-- `unheard`: open leases of whose grants the worker has not heard. `held` says how many slots each holder has: all
-- holders where `all_held` is 1, else those that changed. `batch_held` is how many slots batches hold.
--
-- Returns the ms after which to ask again, -1 where a ring will do; 0 where this worker was not known; then the lease,
-- the tenant, the priority and the group ('' = none with a limit) of each grant. Takes O(log n) for each offer.
function operations.take()
  local worker, free, most = arguments.worker, arguments.free, arguments.most
  local shows, was = arguments.info ~= '', read_worker(worker)
  count_holds(arguments.closed, arguments.held_ms)
  if was and arguments.ask < was.ask or not was and arguments.known == 1 then return {0, 0, {}} end
  if shows then
    put(key.workers, now + arguments.worker_ttl_ms, worker)
    reap()
  else
    reap_promotions()
  end
  local now_has = {slots = was and was.slots, drains = was and was.drains, card = was and was.card, ask = arguments.ask}
  if shows then
    now_has.slots, now_has.drains = arguments.slots, arguments.draining
    now_has.card, now_has.info = arguments.card, arguments.info
  end
  local told = {}
  hold_all(worker, arguments.held, arguments.all_held == 1)
  for _, row in ipairs(arguments.held) do told[row.holder] = true end
  local granted, fresh, priorities, news = {}, 0, {}, {}
  local batch_held, unfilled = arguments.batch_held, free
  local function hear(lease, tenant, priority, group)
    granted[#granted + 1] = {lease, tenant, priority, group or ''}
    if yields(priority) then batch_held = batch_held + 1 end
  end
  local leases = {}
  for _, rows in ipairs({arguments.unheard, arguments.offers}) do
    for _, row in ipairs(rows) do leases[#leases + 1] = row.lease end
  end
  local granted_for = read_leases(leases)
  local function granted_before(lease)
    local before = granted_for[lease]
    if not before then return false end
    local priority, holders = string.match(before, '^%S+ (%S+) (.*)$')
    local tenant, group = string.match(holders, '^(.*) (/.*)$')
    for _, holder in ipairs({tenant or holders, group}) do
      if told[holder] or arguments.all_held == 1 then hold_one_more(holder) end -- else it counts it already
    end
    hear(lease, tenant or holders, tonumber(priority), group)
    return true
  end
  for _, row in ipairs(arguments.unheard) do granted_before(row.lease) end
  unpark_a_group(true)
  see_worker(was, now_has.slots - free - batch_held, batch_held)
  for _, offer in ipairs(arguments.offers) do
    if granted_before(offer.lease) then
      unfilled = unfilled - 1
      count_hold(granted[#granted][3])
    elseif fresh < most then
      local ticket = next_ticket(worker)
      if ticket then
        grant(ticket, worker, offer.lease, offer.record .. ticket.body, arguments.grant_ms, news)
        hear(offer.lease, ticket.tenant, ticket.priority, ticket.group)
        priorities[ticket.priority] = true
        fresh, unfilled = fresh + 1, unfilled - 1
      else
        most = fresh
      end
    end
  end
  if fresh > 0 then count('grants', fresh) end
  keep_held(worker)
  for priority in pairs(priorities) do
    keep_clocks(priority)
    forget_clocks(priority)
    if yields(priority) then note_batch_grant() end
  end
  for gateway, records in pairs(news) do
    redis.call('RPUSH', shard.grants .. gateway, unpack(records))
    expire(shard.grants .. gateway, FORGET_MS)
  end
  now_has.free, now_has.batch = unfilled, batch_held
  note_worker(worker, was, now_has)
  if shows then redis.call('SET', key.card, arguments.info, 'PX', KEEP_MS) end
  if now_has.drains == 0 and unfilled > 0 then
    put(key.idle, unfilled, worker)
  else
    redis.call('ZREM', key.idle, worker)
  end
  if not read.no_heads[''] and idlest() and has_work() then ring() end
  local again_ms = -1
  if may_drop <= 0 then
    again_ms = 0
  else
    local promotion = next_promotion()
    if promotion then again_ms = math.max(0, promotion - now) end
    local room_in_ms = read.room_in_ms
    if room_in_ms and (again_ms < 0 or room_in_ms < again_ms) then again_ms = room_in_ms end
  end
  return {again_ms, was and 1 or 0, granted}
end

-- A worker leaves: what waits in its own queue goes to the others, what is more than AT_ONCE a little later.
function operations.close_worker()
  local worker = arguments.worker
  forget_worker(worker)
  for _ = 1, AT_ONCE do
    local head = first_head(worker)
    if not head then break end
    local id = first_of(queue_of(worker, head.priority, head.tenant))
    if id then promote(id) else drop_head(worker, head.name) end
    ring()
  end
end

-- WorkerInfo of live workers and how many of the slots that each had free then are still free: those from `from` on, in
-- the order of their heartbeats, `most` at most.
function operations.workers()
  local answer = {}
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', key.workers, '(' .. now, '+inf', 'LIMIT', arguments.from,
                                     arguments.most)) do
    local row = redis.call('HMGET', key.worker .. worker, 'info', 'free')
    answer[#answer + 1] = {row[1] or '', tonumber(row[2] or 0)}
  end
  return answer
end

-- For each queue: live workers, those of them that drain, the WorkerInfo of the last one ('' = not known), and the
-- different ModelCards that they show.
function operations.describe()
  local answer = {}
  for i, row in ipairs(arguments.queues) do
    turn_to(row.queue)
    reap()
    answer[i] = {live_workers(), read_sums().draining_workers, redis.call('GET', key.card) or '',
                 redis.call('HKEYS', key.cards)}
  end
  return answer
end

-- Slots that each tenant, and each group with a limit, holds: its name and their number, in turns.
function operations.held() return redis.call('HGETALL', key.held) end

-- Keeps what is known of this queue's workers though none may live. Returns 0 where nothing is known.
function operations.remember() return redis.call('PEXPIRE', key.card, KEEP_MS) end

-- Of several scalers one shows how many replicas this queue's stage should have. Returns 1 where that is `scaler`, for
-- another `ttl_ms`; 2 where it now is, in place of one that was silent; 0 where it is another.
function operations.lead()
  local row = redis.call('HMGET', key.scaler, 'id', 'until')
  local other = row[1] and row[1] ~= arguments.scaler
  if other and tonumber(row[2]) > now then return 0 end
  set(key.scaler, 'id', arguments.scaler, 'until', now + arguments.ttl_ms)
  return other and 2 or 1
end

-- A turn will ask this queue for a slot, at the latest in `within_ms`.
function operations.wake() redis.call('SET', key.woken, '', 'PX', arguments.within_ms) end

-- How many batches wait because others are there, so that free slots would not change it; and when the first came of
-- those that do not: all where nobody is there, else those at the front. nil = there is none.
local function count_yielding()
  local id, first_us = first_of(key.batch_arrivals)
  local ticket = id and read_ticket(id)
  if not ticket then return 0, first_us end
  local quiet_ms = tonumber(string.match(ticket.beside, '^%S+ (%S+)'))
  if not others_are_here() and others_away_ms() >= quiet_ms then return 0, first_us end
  local yielding = redis.call('ZCARD', key.batch_arrivals)
  first_us = nil
  for priority = BATCH, LOWEST, -1 do
    local queue = queue_of('', priority, FRONT)
    local _, arrival = first_of(queue)
    yielding = yielding - redis.call('ZCARD', queue)
    first_us = math.min(first_us or math.huge, arrival or math.huge)
  end
  return yielding, first_us
end

-- How many tickets above BATCH wait, how many at or below it, and how many of these yield to others; the longest wait
-- of one that does not, in ms. For how many ms others have been away; 1 where a turn is on its way here; 1 where a
-- worker is or was known; live workers; SUMS. Then as text: arrivals, grants and refusals for want of slots a second,
-- mean hold in ms.
function operations.stats()
  reap()
  local sums = read_sums()
  local _, first_us = first_of(key.arrivals)
  local yielding, first_batch_us = count_yielding()
  local oldest_us = math.min(first_us or now_us, first_batch_us or now_us, now_us)
  local answer = {redis.call('ZCARD', key.arrivals), redis.call('ZCARD', key.batch_arrivals), yielding,
                  (now_us - oldest_us) / 1000, others_away_ms(), redis.call('EXISTS', key.woken),
                  redis.call('EXISTS', key.card), live_workers()}
  for _, name in ipairs(SUMS) do answer[#answer + 1] = sums[name] end
  for _, name in ipairs({'arrivals', 'grants', 'refusals'}) do answer[#answer + 1] = exact(rate_per_s(name)) end
  answer[#answer + 1] = exact(hold_ms() or 0)
  return answer
end

-- Runs the operation that the first word names.
local function call(keys, words)
  begin(keys, words)
  local answer = operations[words[1]]()
  turn_to(nil)
  set_expiries()
  return answer
end


redis.register_function(FUNCTION, call)
redis.register_function{function_name = FUNCTION .. '_when_full', callback = call, flags = {'allow-oom'}}
