-- Tickets, and the workers and gateways that hold them.

-- What a ticket never changes, in one field of its hash. `line` is its tenant or FRONT; `group` and `beside` may be ''.
local TERMS = {'arrival', 'deadline', 'line', 'tenant', 'priority', 'charge', 'gateway', 'body', 'affinity',
               'max_slots', 'max_share', 'share_beside', 'group', 'group_max_slots', 'group_max_share', 'beside'}
-- `own` is the worker in whose own queue the ticket waits, '' for the common one.
local FIELDS = {'terms', 'own', 'lease', 'worker', 'record'}

local function pack_terms(ticket)
  local terms = {}
  for i, name in ipairs(TERMS) do terms[i] = ticket[name] end
  return cmsgpack.pack(terms)
end

local function read_ticket(id)
  local row = redis.call('HMGET', key.ticket .. id, unpack(FIELDS))
  if not row[1] then return nil end
  local ticket, terms = {id = id}, cmsgpack.unpack(row[1])
  for i, name in ipairs(TERMS) do ticket[name] = terms[i] end
  for i = 2, #FIELDS do ticket[FIELDS[i]] = row[i] end
  if ticket.group == '' then ticket.group = nil end
  return ticket
end

local function of_gateway(id) return id .. ' ' .. queue_name end

local function unlink(ticket)
  local id = ticket.id
  remove(ticket.own, ticket.priority, ticket.line, id, ticket.two)
  redis.call('ZREM', arrivals_of(ticket.priority), id)
  redis.call('ZREM', key.deadlines, id)
  redis.call('ZREM', key.ranks, id)
  if read.depth then read.depth = read.depth - 1 end
  if ticket.own ~= '' then
    redis.call('ZREM', key.promotions, id)
    read.promotion = nil
  end
  redis.call('SREM', shard.gateway .. ticket.gateway, of_gateway(id))
  add_to(key.waiting, ticket.tenant, -1)
end

-- Removes a ticket that never got a slot. Its tenant was not charged yet.
local function drop(ticket)
  unlink(ticket)
  if not yields(ticket.priority) then note_others() end -- it has waited until now
  redis.call('DEL', key.ticket .. ticket.id)
end

-- Moves a ticket from a worker's own queue to the common one.
local function promote(id)
  local ticket = read_ticket(id)
  redis.call('ZREM', key.promotions, id)
  read.promotion = nil
  if not ticket or ticket.own == '' or ticket.lease then return end
  remove(ticket.own, ticket.priority, ticket.line, id)
  insert('', ticket.priority, ticket.line, id, ticket.arrival)
  redis.call('HSET', key.ticket .. id, 'own', '')
end

-- The worker with most idle slots; nil where none has any.
local function idlest()
  if read.idlest == nil then read.idlest = redis.call('ZREVRANGE', key.idle, 0, 0)[1] or false end
  return read.idlest or nil
end

-- Wakes a worker: `worker`, or the one with most idle slots. A ring is only a hint: workers also look by themselves.
local function ring(worker)
  for _ = 1, AT_ONCE do
    if worker then break end
    local idle = idlest()
    if not idle then return false end
    read.idlest = nil
    if alive(key.workers, idle) then worker = idle else redis.call('ZREM', key.idle, idle) end
  end
  if not worker then return false end
  local bell = key.bell .. worker
  redis.call('RPUSH', bell, '') -- at most once for each idle slot
  expire(bell, FORGET_MS)
  if tonumber(redis.call('ZINCRBY', key.idle, -1, worker)) <= 0 then redis.call('ZREM', key.idle, worker) end
  return true
end

-- Slots that holders have, as their workers say. Holders are tenants, and groups of tenants with a limit; only a
-- group's name begins with a slash. A tenant is parked where it waits and it, or its group, holds as many slots as it
-- may: its heads are away until the holder has fewer. The holder has at least one slot then, so that moment comes.

local function is_group(holder) return string.byte(holder) == 47 end

local SEVERAL_MS = 60000 -- for so long after tickets of several tenants came, each leaves slots to others

-- Whether tickets of several tenants came of late, of those with a `share_beside`.
local function several_tenants()
  if read.several == nil then
    local at = redis.call('HGET', key.tenants, 'several')
    read.several = at and now - tonumber(at) < SEVERAL_MS or false
  end
  return read.several
end

local function may_have(max_slots, max_share)
  local most, share = tonumber(max_slots), tonumber(max_share)
  if most == 0 then most = math.huge end
  if share < 1 then most = math.min(most, math.max(1, math.floor(share * slots_in_use()))) end
  return most
end

local function is_full(holder, max_slots, max_share)
  local most = may_have(max_slots, max_share)
  if most == math.huge then return false end
  return tonumber(redis.call('HGET', key.held, holder) or 0) + (read.more_held[holder] or 0) >= most
end

-- The holder at whose limit a ticket waits; nil where it may have a slot.
local function full_holder(ticket)
  local share = ticket.max_share
  if ticket.share_beside < share and several_tenants() then share = ticket.share_beside end
  if is_full(ticket.tenant, ticket.max_slots, share) then return ticket.tenant end
  if ticket.group and is_full(ticket.group, ticket.group_max_slots, ticket.group_max_share) then return ticket.group end
end

local function park(head, tenant, holder)
  local among = is_group(holder) and key.parked_in .. holder or key.parked
  drop_head(head.worker, head.name)
  renew(among, redis.call('SADD', among, tenant) == 1)
  if is_group(holder) then renew(key.full_groups, redis.call('SADD', key.full_groups, holder) == 1) end
end

local function unpark(tenant)
  for priority = LOWEST, HIGHEST do place_first(priority, tenant) end
end

-- Brings back some tenants of a group. Those that find it full are parked again, and the others come after them.
local function unpark_some(group)
  local tenants = redis.call('SPOP', key.parked_in .. group, AT_ONCE)
  for _, tenant in ipairs(tenants) do unpark(tenant) end
  if #tenants < AT_ONCE then redis.call('SREM', key.full_groups, group) end
end

-- Brings back some tenants of a full group, where `if_idle` of one that holds nothing any more: of those that came back
-- last no ticket may have been left.
local function unpark_a_group(if_idle)
  local group = redis.call('SRANDMEMBER', key.full_groups)
  if not group then return end
  renew(key.parked_in .. group, false)
  if not (if_idle and redis.call('HEXISTS', key.held, group) == 1) then unpark_some(group) end
end

-- What each of some leases was granted for, see SET in `grant`.
local function read_leases(leases)
  if not leases[1] then return {} end
  local names, found = {}, {}
  for i, lease in ipairs(leases) do names[i] = key.lease .. lease end
  for i, granted_for in ipairs(redis.call('MGET', unpack(names))) do found[leases[i]] = granted_for end
  return found
end

-- Notes a slot more of a holder; `keep_held` writes it down.
local function hold_one_more(holder) read.more_held[holder] = (read.more_held[holder] or 0) + 1 end

local function keep_held(worker)
  for holder, more in pairs(read.more_held) do
    add_to(key.held_by .. worker, holder, more)
    add_to(key.held, holder, more)
  end
  read.more_held = {}
end

-- Notes that a holder has `slots` slots of a worker, where it had `before`.
local function hold(worker, holder, slots, before)
  local more, held_by = slots - before, key.held_by .. worker
  if more == 0 then return end
  if slots > 0 then set(held_by, holder, slots) else redis.call('HDEL', held_by, holder) end
  add_to(key.held, holder, more)
  if more >= 0 then return end
  if is_group(holder) then
    unpark_some(holder)
  elseif redis.call('SREM', key.parked, holder) == 1 then
    unpark(holder)
  end
end

-- Notes what a worker says of holders: of those that changed or, where `is_all`, of all that hold slots of it.
local function hold_all(worker, rows, is_all)
  local before = {}
  if is_all then
    local found = redis.call('HGETALL', key.held_by .. worker)
    for i = 1, #found, 2 do before[found[i]] = tonumber(found[i + 1]) end
  elseif rows[1] then
    local holders = {}
    for i, row in ipairs(rows) do holders[i] = row.holder end
    for i, slots in ipairs(redis.call('HMGET', key.held_by .. worker, unpack(holders))) do
      before[holders[i]] = tonumber(slots or 0)
    end
  end
  for _, row in ipairs(rows) do
    hold(worker, row.holder, row.slots, before[row.holder] or 0)
    before[row.holder] = nil
  end
  for holder, slots in pairs(before) do hold(worker, holder, 0, slots) end
end

local WORKER = {'slots', 'free', 'drains', 'batch', 'card', 'ask'}

-- What is written down of a worker; nil where it is not known.
local function read_worker(worker)
  local row, found = redis.call('HMGET', key.worker .. worker, unpack(WORKER)), {}
  if not row[1] then return nil end
  for i, name in ipairs(WORKER) do found[name] = name == 'card' and row[i] or tonumber(row[i]) end
  return found
end

-- Lets a worker's heartbeat renew what is written only when something changes: a fleet may stay as it is for hours.
local function renew_fleet(worker)
  for _, name in ipairs({key.sums, key.cards, key.held, key.held_by .. worker, key.parked, key.full_groups}) do
    renew(name, false)
  end
end

-- Writes down a worker's slots, and keeps the sums. `was` is what `read_worker` found; for one that left `now_has` is
-- nil.
local function note_worker(worker, was, now_has)
  local function count_in(slots, free, drains, card, batch, sign)
    add_to(key.sums, 'slots', sign * slots)
    add_to(key.sums, 'free', sign * free)
    add_to(key.sums, 'batch', sign * batch)
    if drains == 1 then
      add_to(key.sums, 'draining_workers', sign)
      add_to(key.sums, 'draining_slots', sign * slots)
      add_to(key.sums, 'draining_free', sign * free)
    end
    add_to(key.cards, card, sign)
  end
  if was and now_has and was.slots == now_has.slots and was.drains == now_has.drains and was.card == now_has.card then
    add_to(key.sums, 'free', now_has.free - was.free)
    add_to(key.sums, 'batch', now_has.batch - was.batch)
    if now_has.drains == 1 then add_to(key.sums, 'draining_free', now_has.free - was.free) end
  else
    if was then count_in(was.slots, was.free, was.drains, was.card, was.batch, -1) end
    if now_has then count_in(now_has.slots, now_has.free, now_has.drains, now_has.card, now_has.batch, 1) end
    -- There may be more slots to have a share of.
    for _, tenant in ipairs(redis.call('SPOP', key.parked, AT_ONCE)) do unpark(tenant) end
    unpark_a_group(false)
  end
  if now_has and now_has.info then
    set(key.worker .. worker, 'slots', now_has.slots, 'free', now_has.free, 'drains', now_has.drains,
        'card', now_has.card, 'info', now_has.info, 'batch', now_has.batch, 'ask', now_has.ask)
    renew_fleet(worker)
  elseif now_has then
    set(key.worker .. worker, 'free', now_has.free, 'batch', now_has.batch, 'ask', now_has.ask)
  else
    hold_all(worker, {}, true)
    redis.call('DEL', key.worker .. worker, key.bell .. worker)
    redis.call('ZREM', key.workers, worker)
    redis.call('ZREM', key.idle, worker)
  end
  read.others = nil
end

local function forget_worker(worker)
  local was = read_worker(worker)
  see_worker(was, 0, 0)
  note_worker(worker, was, nil)
end

-- Drops tickets of gateways whose heartbeat ended, at most `most`, of any queue of the shard. Returns how many.
local function reap_gateways(most)
  local gateway = redis.call('ZRANGEBYSCORE', shard.gateways, '-inf', now, 'LIMIT', 0, 1)[1]
  if not gateway or most <= 0 then return 0 end
  local waiting, here = redis.call('SPOP', shard.gateway .. gateway, most), queue_name
  for _, member in ipairs(waiting) do
    local id, name = string.match(member, '^(%S+) (.*)$')
    turn_to(name)
    local ticket = read_ticket(id)
    if ticket and not ticket.lease then drop(ticket) end
  end
  if here then turn_to(here) end
  if #waiting < most then
    redis.call('ZREM', shard.gateways, gateway)
    redis.call('DEL', shard.grants .. gateway)
  end
  return #waiting
end

-- When the next ticket of a worker's own queue may go to any worker, ms; nil where there is none.
local function next_promotion()
  if read.promotion == nil then read.promotion = select(2, first_of(key.promotions)) or false end
  return read.promotion or nil
end

local function each_due(zset, act)
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', zset, '-inf', now, 'LIMIT', 0, may_reap)) do
    act(member)
    may_reap = may_reap - 1
  end
end

-- Promotes tickets whose time has come.
local function reap_promotions()
  local due = next_promotion()
  if due and due <= now then each_due(key.promotions, promote) end
end

-- Promotes and drops tickets whose time has come, and forgets workers and gateways that are gone. Operations on tickets
-- begin with it, but for asks between heartbeats.
local function reap()
  reap_promotions()
  each_due(key.deadlines, function(id)
    local ticket = read_ticket(id)
    if ticket then drop(ticket) else redis.call('ZREM', key.deadlines, id) end
  end)
  each_due(key.workers, forget_worker)
  may_reap = may_reap - reap_gateways(may_reap)
end

-- The ticket that this worker should serve next, still linked; nil where there is none.
local function next_ticket(worker)
  while may_drop > 0 do
    local head = next_head(worker)
    if head and yields(head.priority) and read.no_room then head = front_head(worker) end
    if not head then return nil end
    local two = first_two(queue_of(head.worker, head.priority, head.tenant))
    local id, arrival = two[1], tonumber(two[2])
    local ticket = id and read_ticket(id)
    if ticket then ticket.two = two end
    if not id then
      drop_head(head.worker, head.name)
    elseif not ticket then
      remove(head.worker, head.priority, head.tenant, id)
    elseif not gateway_alive(ticket.gateway) or ticket.deadline <= now then
      drop(ticket)
    elseif head.worker ~= '' and head.rank ~= rank_of(head.priority, start_of(head.priority, head.tenant)) then
      place_head(head.worker, head.priority, head.tenant, arrival, arrival) -- its tenant's clock has moved since
    elseif ticket.line ~= FRONT and yields(ticket.priority) and not has_room(ticket) then
      read.no_room = true
    else
      local full = ticket.line ~= FRONT and full_holder(ticket)
      if not full then return ticket end
      park(head, ticket.tenant, full)
    end
    may_drop = may_drop - 1
  end
end

-- Whether a worker with a free slot would find a ticket in the common queue.
local function has_work()
  local head = first_head('')
  if not head or not yields(head.priority) then return head ~= nil end
  if not read.no_room and head.tenant ~= FRONT then
    local id = first_of(queue_of('', head.priority, head.tenant))
    local ticket = id and read_ticket(id)
    if not ticket or has_room(ticket) then return true end
  end
  return front_head('') ~= nil
end

-- Grants a ticket. `take` writes down at its end who holds how much, clocks and virtual time, and sends `news`, where
-- this adds the record, to the gateways.
local function grant(ticket, worker, lease, record, grant_ms, news)
  local start = start_of(ticket.priority, ticket.tenant, ticket.own == '' and ticket.line ~= FRONT or nil)
  local clock = start + ticket.charge
  if ticket.line ~= FRONT then set_virtual_time(ticket.priority, start) end
  if ticket.line ~= FRONT and ticket.own == '' then
    note_clock(ticket.priority, ticket.tenant, clock)
    unlink(ticket)
  else
    unlink(ticket)
    note_clock(ticket.priority, ticket.tenant, clock)
    place_first(ticket.priority, ticket.tenant)
  end
  redis.call('HSET', key.ticket .. ticket.id, 'lease', lease, 'worker', worker, 'record', record)
  expire(key.ticket .. ticket.id, grant_ms)
  local holders = ticket.group and ticket.tenant .. ' ' .. ticket.group or ticket.tenant
  redis.call('SET', key.lease .. lease, ticket.id .. ' ' .. ticket.priority .. ' ' .. holders, 'PX', grant_ms)
  hold_one_more(ticket.tenant)
  if ticket.group then hold_one_more(ticket.group) end
  count_hold(ticket.priority)
  news[ticket.gateway] = news[ticket.gateway] or {}
  table.insert(news[ticket.gateway], record)
  if ticket.affinity ~= '' then redis.call('SET', key.affinity .. ticket.affinity, worker, 'PX', AFFINITY_MS) end
end
