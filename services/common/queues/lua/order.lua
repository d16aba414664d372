-- Who is next.
--
-- Two levels. Each tenant has its own queue in each priority, in the order of arrival. `heads` holds one entry for each
-- of these queues that is not empty: its first ticket's arrival, the priority and the tenant, with the score
-- rank = virtual start - priority * STEP. So the lowest entry is of the highest priority and, in it, of the tenant that
-- had least; between equals the first to arrive is first.
--
-- Virtual starts are start-time fair queueing over token counters. A tenant's clock is where its next ticket starts. A
-- grant moves it on by cost / weight; settling and refunds move it, too. All that the tenant waits with moves along: it
-- is one entry. Virtual time is the start of the ticket that was taken last. A tenant that did not wait starts there at
-- the earliest, or with the one that had least of those that wait: what it did not use while it could is not saved up.
-- One that waits keeps what it gets back: settled turns move its clock, also to before virtual time. Each priority has
-- its own clocks.
--
-- Tickets at the front of their priority have a queue of their own, by the name FRONT in place of a tenant's.
-- A worker has heads of its own, for tickets that would profit from its cache. Their ranks are put right when it looks.

local STEP = 281474976710656 -- 2^48: what lies between two priorities. 7 * STEP leaves a double a resolution of 1/4
local LOWEST, BATCH, HIGHEST = -3, -2, 3 -- priorities
local FRONT = ''

local function virtual_time(priority)
  local known = read.virtual_time
  known[priority] = known[priority] or score(key.clocks .. priority, '') or 0
  return known[priority]
end

-- Notes where virtual time is; `keep_clocks` writes it down.
local function set_virtual_time(priority, start)
  read.virtual_time[priority], read.floors[priority] = start, nil
end

local function clocks_read(priority)
  read.clocks[priority] = read.clocks[priority] or {}
  return read.clocks[priority]
end

local function clock_of(priority, tenant)
  local known = clocks_read(priority)
  if known[tenant] == nil then known[tenant] = score(key.clocks .. priority, tenant) or false end
  return known[tenant]
end

local function write_clock(priority, tenant, clock)
  clocks_read(priority)[tenant] = clock
  put(key.clocks .. priority, clock, tenant)
end

-- Notes where a tenant's clock is, for `keep_clocks`.
local function note_clock(priority, tenant, clock)
  clocks_read(priority)[tenant] = clock
  read.moved[priority] = read.moved[priority] or {}
  read.moved[priority][tenant] = clock
end

-- Writes down virtual time, and the clocks that were noted.
local function keep_clocks(priority)
  local words = {virtual_time(priority), ''}
  for tenant, clock in pairs(read.moved[priority] or {}) do
    words[#words + 1] = clock
    words[#words + 1] = tenant
  end
  read.moved[priority] = nil
  renew(key.clocks .. priority, redis.call('ZADD', key.clocks .. priority, unpack(words)) > 0)
end

-- Clocks that reach STEP, as those of little weight may, rank alike until `forget_clocks` begins anew. They
-- stay before the front of the next lower priority, which starts at -1.
local function rank_of(priority, start) return math.min(start, STEP - 2) - priority * STEP end

local function heads_of(worker) return worker == '' and key.heads or key.worker_heads .. worker end

local function queue_of(worker, priority, tenant)
  return key.tenant_queue .. worker .. '/' .. priority .. '/' .. tenant
end

local function first_of(zset)
  local row = redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')
  return row[1], tonumber(row[2])
end

local function head_name(arrival, priority, tenant) return string.format('%016.0f:%d:%s', arrival, priority, tenant) end

-- The last ticket of a tenant's queue, and its arrival.
local function last_of(queue)
  if not read.last[queue] then
    local row = redis.call('ZREVRANGE', queue, 0, 0, 'WITHSCORES')
    read.last[queue] = {row[1], tonumber(row[2])}
  end
  return unpack(read.last[queue], 1, 2)
end

-- Where a tenant starts that did not wait.
local function floor_of(priority)
  if not read.floors[priority] then
    local floor = virtual_time(priority)
    local lowest = redis.call('ZRANGEBYSCORE', key.heads, '(' .. exact(rank_of(priority, -1)),
                              '(' .. exact(rank_of(priority, floor)), 'WITHSCORES', 'LIMIT', 0, 1)
    read.floors[priority] = lowest[2] and tonumber(lowest[2]) + priority * STEP or floor
  end
  return read.floors[priority]
end

local function waits(priority, tenant) return last_of(queue_of('', priority, tenant)) ~= nil end

-- `waiting`: whether the tenant waits in the common queue, where that is known.
local function start_of(priority, tenant, waiting)
  if tenant == FRONT then return -1 end
  local clock = clock_of(priority, tenant)
  if waiting == nil then waiting = clock and waits(priority, tenant) end
  if clock and waiting then return clock end
  local floor = floor_of(priority)
  return math.max(floor, clock or floor)
end

-- `heads` of the common queue change: where tenants start is to be read anew.
local function change_heads(worker)
  if worker == '' then read.floors = {} end
end

local function drop_head(worker, name)
  redis.call('ZREM', heads_of(worker), name)
  change_heads(worker)
end

-- Puts the entry of a tenant's queue where it belongs. `was` is the arrival of the ticket that was first, `arrival`
-- that of the one that is; nil where there is none.
local function place_head(worker, priority, tenant, was, arrival)
  if was and was ~= arrival then drop_head(worker, head_name(was, priority, tenant)) end
  if arrival then
    local start = start_of(priority, tenant, worker == '' or nil)
    put(heads_of(worker), rank_of(priority, start), head_name(arrival, priority, tenant))
    change_heads(worker)
    read.no_heads[worker] = nil
  end
end

local function insert(worker, priority, tenant, id, arrival)
  local queue = queue_of(worker, priority, tenant)
  local last, last_arrival = last_of(queue)
  local is_last = not last or arrival > last_arrival
  local was = nil
  if not last and worker == '' and tenant ~= FRONT then
    write_clock(priority, tenant, start_of(priority, tenant, false))
  end
  if last and not is_last then was = select(2, first_of(queue)) end
  put(queue, arrival, id)
  read.last[queue] = is_last and {id, arrival} or nil
  if not last or was and arrival < was then place_head(worker, priority, tenant, was, arrival) end
end

-- The first two tickets of a tenant's queue and their arrivals, in turns.
local function first_two(queue) return redis.call('ZRANGE', queue, 0, 1, 'WITHSCORES') end

-- `two`: the first two of the ticket's queue, where they are known.
local function remove(worker, priority, tenant, id, two)
  local queue = queue_of(worker, priority, tenant)
  two = two or first_two(queue)
  redis.call('ZREM', queue, id)
  read.last[queue] = nil
  if two[1] == id then place_head(worker, priority, tenant, tonumber(two[2]), tonumber(two[4])) end
end

-- Puts the entry of what a tenant waits with in the common queue where its clock is.
local function place_first(priority, tenant)
  local _, arrival = first_of(queue_of('', priority, tenant))
  if arrival then place_head('', priority, tenant, arrival, arrival) end
end

-- Moves a tenant's clock, and with it all that it waits with in the common queue.
local function move_clock(priority, tenant, by)
  local _, arrival = first_of(queue_of('', priority, tenant))
  local earliest = arrival and 0 or floor_of(priority)
  write_clock(priority, tenant, math.max(earliest, start_of(priority, tenant, arrival ~= nil) + by))
  if arrival then place_head('', priority, tenant, arrival, arrival) end
end

local function nobody_waits(priority)
  return not redis.call('ZRANGEBYSCORE', key.heads, rank_of(priority, -1), rank_of(priority, STEP), 'LIMIT', 0, 1)[1]
end

-- Clocks that lag behind where all start count for nothing. Where virtual time nears STEP, all begin anew once nobody
-- waits.
local function forget_clocks(priority)
  local clocks = key.clocks .. priority
  if virtual_time(priority) > STEP / 2 and nobody_waits(priority) then
    redis.call('DEL', clocks)
    read.virtual_time[priority], read.clocks[priority], read.floors[priority] = nil, nil, nil
    return
  end
  local late = redis.call('ZRANGEBYSCORE', clocks, '-inf', '(' .. exact(floor_of(priority)), 'LIMIT', 0, AT_ONCE)
  if late[1] then redis.call('ZREM', clocks, unpack(late)) end
end

-- The lowest entry of a worker's own heads, or of the common ones for '': its name, priority, tenant and rank.
local function first_head(worker)
  if read.no_heads[worker] then return nil end
  local name, rank = first_of(heads_of(worker))
  if not name then
    read.no_heads[worker] = true
    return nil
  end
  local priority, tenant = string.match(name, '^%d+:(-?%d+):(.*)$')
  return {worker = worker, name = name, priority = tonumber(priority), tenant = tenant, rank = rank}
end

-- Where a worker looks next: its own heads come first only within a priority. nil where nothing waits for it.
local function next_head(worker)
  local own, common = first_head(worker), first_head('')
  if own and not (common and common.priority > own.priority) then return own end
  return common
end
