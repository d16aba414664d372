-- Load: sums that decay, so that rates need no buckets.

local RATE_MS = 30000
local HOLD_MS = 120000

local function decayed(name, over_ms)
  local row = redis.call('HMGET', key.load, name .. ':n', name .. ':at', name .. ':since')
  if not row[1] then return 0, now end
  return tonumber(row[1]) * math.exp((tonumber(row[2]) - now) / over_ms), tonumber(row[3])
end

local function add(name, number, over_ms)
  local n, since = decayed(name, over_ms)
  redis.call('HSET', key.load, name .. ':n', exact(n + number), name .. ':at', now, name .. ':since', since)
  renew(key.load)
end

local function count(name, number) add(name, number, RATE_MS) end

local function count_holds(closed, held_ms)
  if closed > 0 then
    add('closed', closed, HOLD_MS)
    add('held', held_ms, HOLD_MS)
  end
end

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

local SUMS = {'slots', 'free', 'batch', 'draining_workers', 'draining_slots', 'draining_free'}

-- Slots of all workers, as of their last ask, in the order of SUMS; `batch` = those that batches hold. What was granted
-- since is not free.
local function read_sums()
  local sums = {}
  for i, value in ipairs(redis.call('HMGET', key.sums, unpack(SUMS))) do sums[SUMS[i]] = tonumber(value or 0) end
  return sums
end

-- Slots of workers that take tickets.
local function slots_in_use()
  if not read.slots then
    local sums = read_sums()
    read.slots = sums.slots - sums.draining_slots
  end
  return read.slots
end

-- Free slots of workers that take tickets; and the mean ms between two slots that become free were all of them busy, nil
-- where it is not known yet. A ticket whose worker was rung still counts as waiting.
local function capacity()
  if not read.free then
    local sums, hold = read_sums(), hold_ms()
    local slots = sums.slots - sums.draining_slots
    read.free, read.each_ms = sums.free - sums.draining_free, hold and slots > 0 and hold / slots or nil
  end
  return read.free, read.each_ms
end
