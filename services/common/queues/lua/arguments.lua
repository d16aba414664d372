-- What each call begins with: its arguments by name, the keys of its queue, and the time.
--
-- These files are one library of Redis functions: they run once, when the library is loaded, and each call runs
-- `call` at the end of workers.lua. What a call knows is in the variables below, which `begin` sets anew.
--
-- Its only key is the prefix of a shard's keys. The first word names the operation; what follows is written by script.py.
-- It is read here and nowhere else: `arguments.<name>` is a number, a text or, for a table, a list of rows by column name.
-- keys.py puts SHARD_KEYS and QUEUE_KEYS, the names of all keys, before this text.

local KEEP_MS = 3600000      -- structures outlive their last write by this; longer than any ticket waits
local FORGET_MS = 60000      -- the same for lists that someone is expected to read at once
local AFFINITY_MS = 1800000
local AT_ONCE = 8            -- tickets that one call drops or promotes beside its own work: no call takes long

local prefix, arguments, now_us, now
local shard, queue_name, key -- the keys of the shard, the queue that the call has turned to, and its keys
local read                   -- what the call has read of the queue, and keeps up to date
local gateways_alive         -- gateway → whether its heartbeat is good, as far as the call has looked
local expires                -- key → after how many ms it expires; set when the call ends
local may_reap, may_drop     -- what the call may still do beside its own work

-- Text and number of a column whose name ends with '#', as script.py marks numbers.
local function named(name, text)
  if string.byte(name, -1) == 35 then return string.sub(name, 1, -2), tonumber(text) end
  return name, text
end

local function read_arguments(words)
  local found, at = {}, 2
  for _ = 1, tonumber(words[at]) do
    local name, value = named(words[at + 1], words[at + 2])
    found[name] = value
    at = at + 2
  end
  at = at + 1
  for _ = 1, tonumber(words[at]) do
    local rows, height, width = {}, tonumber(words[at + 2]), tonumber(words[at + 3])
    found[words[at + 1]] = rows
    local columns, numbers = {}, {}
    for i = 1, width do
      local name = words[at + 3 + i]
      numbers[i] = string.byte(name, -1) == 35
      columns[i] = numbers[i] and string.sub(name, 1, -2) or name
    end
    at = at + 3 + width
    for r = 1, height do
      local row = {}
      for i = 1, width do
        local text = words[at + i]
        row[columns[i]] = numbers[i] and tonumber(text) or text
      end
      rows[r] = row
      at = at + width
    end
  end
  return found
end

-- Key names are made when they are first needed, and kept for the calls that follow.
local MOST_NAMES = 4096
local known_names, number_of_names = {}, 0

local function names(before, suffixes)
  if not known_names[before] then
    if number_of_names >= MOST_NAMES then known_names, number_of_names = {}, 0 end
    number_of_names = number_of_names + 1
    known_names[before] = setmetatable({}, {__index = function(known, name)
      known[name] = before .. suffixes[name]
      return known[name]
    end})
  end
  return known_names[before]
end

-- Turns to one queue of the shard, "stage/model": `key` holds its keys from now on.
local function turn_to(name)
  if queue_name ~= name then
    queue_name, key = name, names(prefix .. name .. ':', QUEUE_KEYS)
    read = {virtual_time = {}, clocks = {}, no_heads = {}, last = {}, more_held = {}}
  end
end

local function begin(keys, words)
  local time = redis.call('TIME')
  now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
  now = math.floor(now_us / 1000)
  prefix, arguments = keys[1] .. ':', read_arguments(words)
  shard, queue_name, key, read = names(prefix, SHARD_KEYS), nil, nil, nil
  gateways_alive, expires, may_reap, may_drop = {}, {}, AT_ONCE, AT_ONCE
  if arguments.queue then turn_to(arguments.queue) end
end

local function exact(number) return string.format('%.17g', number) end

local function score(zset, member)
  local found = redis.call('ZSCORE', zset, member)
  return found and tonumber(found)
end

local function expire(name, after_ms) expires[name] = after_ms end

local function renew(name) expires[name] = KEEP_MS end

local function set_expiries()
  for name, after_ms in pairs(expires) do redis.call('PEXPIRE', name, after_ms) end
end

local function put(zset, number, member)
  redis.call('ZADD', zset, exact(number), member)
  renew(zset)
end

-- Adds to a field, which goes away at zero.
local function add_to(hash, field, number)
  if number == 0 then return end
  if redis.call('HINCRBY', hash, field, number) == 0 then redis.call('HDEL', hash, field) end
  if number > 0 then renew(hash) end
end

local function alive(zset, who)
  local until_ms = score(zset, who)
  return until_ms and until_ms > now
end

local function gateway_alive(gateway)
  if gateways_alive[gateway] == nil then gateways_alive[gateway] = alive(shard.gateways, gateway) or false end
  return gateways_alive[gateway]
end

local function live_workers()
  read.workers = read.workers or redis.call('ZCOUNT', key.workers, '(' .. now, '+inf')
  return read.workers
end
