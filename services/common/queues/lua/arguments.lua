-- What each call begins with: its arguments by name, the keys of its queue, and the time.
--
-- These files are one library of Redis functions: they run once, when the library is loaded, and each call runs
-- `call` at the end of workers.lua. What a call knows is in the variables below, which `begin` sets anew.
--
-- A call's only key is the prefix of a shard's keys. Its first word names the operation, and script.py writes the
-- others. Only this file reads them: `arguments.<name>` is a number, a text or, for a table, a list of rows by column
-- name. keys.py puts SHARD_KEYS and QUEUE_KEYS, the names of all keys, before this text.

local KEEP_MS = 3600000      -- structures outlive their last write by this; longer than any ticket waits
local FORGET_MS = 60000      -- the same for lists that someone is expected to read at once
local AFFINITY_MS = 1800000
local RENEW_MS = 60000       -- a key that is there gets its expiry anew when the last time is so long ago
local AT_ONCE = 8            -- tickets that one call drops or promotes beside its own work: no call takes long

local prefix, arguments, now_us, now
local shard, queue_name, key -- the keys of the shard, the queue that the call has turned to, and its keys
local read                   -- what the call has read of the queue, and keeps up to date
local gateways_alive         -- gateway → whether its heartbeat is good, as far as the call has looked
local expires                -- key → after how many ms it expires; set when the call ends
local may_reap, may_drop     -- what the call may still do beside its own work

-- What one call has made and the calls that follow may use: at most MOST_KNOWN entries, then from the beginning.
local MOST_KNOWN = 4096

local function remember_what(make)
  local known, size = {}, 0
  return function(name, ...)
    local found = known[name]
    if found == nil then
      if size >= MOST_KNOWN then known, size = {}, 0 end
      found, size = make(name, ...), size + 1
      known[name] = found
    end
    return found
  end
end

-- The columns of a row: their names, and which of them are numbers. script.py marks those by a '#'.
local function columns_of(text)
  local columns, numbers = {}, {}
  for name in string.gmatch(text, '%S+') do
    local is_number = string.byte(name, -1) == 35
    columns[#columns + 1] = is_number and string.sub(name, 1, -2) or name
    numbers[#columns] = is_number
  end
  return {columns = columns, numbers = numbers, width = #columns}
end

-- A layout as script.py writes it: the columns of the scalars, then of each table its name and columns.
local layout_of = remember_what(function(text)
  local scalars, others = string.match(text, '^([^;]*)(.*)$')
  local layout = {scalars = columns_of(scalars), tables = {}}
  for name, columns in string.gmatch(others, ';([^; ]+)([^;]*)') do
    table.insert(layout.tables, {name = name, columns = columns_of(columns)})
  end
  return layout
end)

-- Reads one row, the words after `at`, into `row`.
local function read_row(row, layout, words, at)
  local columns, numbers = layout.columns, layout.numbers
  for i = 1, layout.width do
    local text = words[at + i]
    row[columns[i]] = numbers[i] and tonumber(text) or text
  end
  return at + layout.width
end

local function read_arguments(words)
  local found, layout = {}, layout_of(words[2])
  local at = read_row(found, layout.scalars, words, 2)
  for _, one in ipairs(layout.tables) do
    at = at + 1
    local rows = {}
    for r = 1, tonumber(words[at]) do
      rows[r] = {}
      at = read_row(rows[r], one.columns, words, at)
    end
    found[one.name] = rows
  end
  return found
end

-- Key names are made when they are first needed.
local names = remember_what(function(before, suffixes)
  return setmetatable({}, {__index = function(known, name)
    known[name] = before .. suffixes[name]
    return known[name]
  end})
end)

local keep_load              -- see load.lua

-- Turns to one queue of the shard, "stage/model": `key` holds its keys from now on. nil turns away from it.
local function turn_to(name)
  if queue_name == name then return end
  if queue_name then keep_load() end
  queue_name = name
  if name then
    key = names(prefix .. name .. ':', QUEUE_KEYS)
    read = {virtual_time = {}, clocks = {}, moved = {}, floors = {}, no_heads = {}, last = {}, more_held = {}}
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

-- A number with all its digits, as part of a text. As an argument of a command it has them without this.
local function exact(number) return string.format('%.17g', number) end

local function score(zset, member)
  local found = redis.call('ZSCORE', zset, member)
  return found and tonumber(found)
end

local function expire(name, after_ms) expires[name] = after_ms end

-- When the expiry of a key was last set to KEEP_MS; the time of a new key does not count.
local renewed_at = remember_what(function() return {ms = -math.huge} end)

-- Lets a key live on after it was written. `is_new`: the command may have made it, so it may have no expiry yet.
local function renew(name, is_new)
  if is_new then
    expires[name] = KEEP_MS
    return
  end
  local last = renewed_at(name)
  if now - last.ms >= RENEW_MS then expires[name], last.ms = KEEP_MS, now end
end

local function set_expiries()
  for name, after_ms in pairs(expires) do redis.call('PEXPIRE', name, after_ms) end
end

local function put(zset, number, member)
  renew(zset, redis.call('ZADD', zset, number, member) == 1)
end

-- Sets fields of a hash.
local function set(hash, ...) renew(hash, redis.call('HSET', hash, ...) > 0) end

-- Adds to a field, which goes away at zero. It never falls below: its key may have expired before what it counts.
local function add_to(hash, field, number)
  if number == 0 then return end
  local sum = redis.call('HINCRBY', hash, field, number)
  if sum <= 0 then redis.call('HDEL', hash, field) elseif number > 0 then renew(hash, sum == number) end
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
