-- Load: sums that decay, so that rates need no buckets.

local RATE_MS = 30000
local HOLD_MS = 120000

local COUNTED = {'arrivals', 'refusals', 'grants', 'closed', 'held'}

-- A sum by name: {n, at, since}, its value at a time and when it was begun, ms. Read at once, and written at the end.
local function sum_of(name)
  if not read.load then
    read.load, read.counted = {}, {}
    for i, packed in ipairs(redis.call('HMGET', key.load, unpack(COUNTED))) do
      local sum = {n = 0, at = now, since = now}
      if packed then sum.n, sum.at, sum.since = cmsgpack.unpack(packed) end
      read.load[COUNTED[i]] = sum
    end
  end
  return read.load[name]
end

-- Writes down what the call has added.
function keep_load()
  if not read.counted or not next(read.counted) then return end
  local words = {}
  for name, sum in pairs(read.counted) do
    words[#words + 1] = name
    words[#words + 1] = cmsgpack.pack(sum.n, sum.at, sum.since)
  end
  set(key.load, unpack(words))
  read.counted = {}
end

local function decayed(name, over_ms)
  local sum = sum_of(name)
  return sum.n * math.exp((sum.at - now) / over_ms), sum.since
end

local function add(name, number, over_ms)
  local sum = sum_of(name)
  sum.n, sum.at = decayed(name, over_ms) + number, now
  read.counted[name] = sum
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

-- Free slots of workers that take tickets; and how often one becomes free while all are busy: the mean ms between two,
-- nil where it is not known yet. A ticket whose worker was rung still counts as waiting.
local function capacity()
  if not read.free then
    local sums, hold = read_sums(), hold_ms()
    local slots = sums.slots - sums.draining_slots
    read.free, read.each_ms = sums.free - sums.draining_free, hold and slots > 0 and hold / slots or nil
  end
  return read.free, read.each_ms
end
