-- Values that are kept for a while, with a bound on their bytes for each tenant and for all tenants together.
--
-- The library's only key names the kind of values; all other keys have it as their hash tag:
--   value:<id>   string: a value, which expires by itself
--   ends         sorted set: entry of each value → when it expires, ms since the epoch
--   of:<tenant>  the same, for one tenant
--   bytes        sorted set: tenant → bytes of its values
--   total        string: bytes of all values
-- An entry is "<id> <bytes> <when it expires> <tenant>". A value counts with what Redis needs to hold it.
-- The first word names the operation, the second is its arguments as JSON, the third one the value.

local OVERHEAD_BYTES = 640
local FORGET_AT_ONCE = 100

local prefix, args, now

-- Removes an entry, and its value where that is still the same one.
local function forget(entry)
  local id, bytes, ends, tenant = string.match(entry, '^(%S+) (%d+) (%d+) (.+)$')
  if redis.call('PEXPIRETIME', prefix .. 'value:' .. id) == tonumber(ends) then
    redis.call('DEL', prefix .. 'value:' .. id)
  end
  redis.call('ZREM', prefix .. 'ends', entry)
  redis.call('ZREM', prefix .. 'of:' .. tenant, entry)
  if tonumber(redis.call('ZINCRBY', prefix .. 'bytes', -bytes, tenant)) <= 0 then
    redis.call('ZREM', prefix .. 'bytes', tenant)
  end
  redis.call('DECRBY', prefix .. 'total', bytes)
end

local function forget_expired()
  local entries = redis.call('ZRANGEBYSCORE', prefix .. 'ends', '-inf', now, 'LIMIT', 0, FORGET_AT_ONCE)
  for _, entry in ipairs(entries) do forget(entry) end
end

-- Removes the value of an id. Returns whether there was one.
local function forget_id(id, tenant)
  local key = prefix .. 'value:' .. id
  local ends = redis.call('PEXPIRETIME', key)
  if ends < 0 then return false end
  local bytes = redis.call('STRLEN', key) + OVERHEAD_BYTES
  forget(string.format('%s %d %.0f %s', id, bytes, ends, tenant))
  return true
end

-- Removes a tenant's value that expires first. Returns false where it has none.
local function forget_oldest(tenant)
  local entry = redis.call('ZRANGE', prefix .. 'of:' .. tenant, 0, 0)[1]
  if entry then forget(entry) end
  return entry ~= nil
end

local function bytes_of(tenant)
  return tonumber(redis.call('ZSCORE', prefix .. 'bytes', tenant) or 0)
end

-- Removes values until `bytes` more fit. Returns how many.
local function make_room(tenant, bytes)
  local forgotten = 0
  while bytes_of(tenant) + bytes > args.most_of_tenant and forget_oldest(tenant) do forgotten = forgotten + 1 end
  while tonumber(redis.call('GET', prefix .. 'total') or 0) + bytes > args.most_of_all do
    local largest = redis.call('ZREVRANGE', prefix .. 'bytes', 0, 0)[1]
    if not largest or not forget_oldest(largest) then break end
    forgotten = forgotten + 1
  end
  return forgotten
end

-- Lets a key live as long as what it tells of.
local function live_until(name, ends)
  if redis.call('PEXPIRETIME', prefix .. name) < ends then
    redis.call('PEXPIREAT', prefix .. name, string.format('%.0f', ends))
  end
end

local operations = {}

-- Keeps a value. Returns when it expires, 0 = it is too large; and how many others made room.
function operations.put(value)
  forget_expired()
  forget_id(args.id, args.tenant)
  local bytes = #value + OVERHEAD_BYTES
  if bytes > args.most_of_tenant or bytes > args.most_of_all then return {0, 0} end
  local forgotten = make_room(args.tenant, bytes)
  local ends = now + args.ttl_ms
  local entry = string.format('%s %d %.0f %s', args.id, bytes, ends, args.tenant)
  redis.call('SET', prefix .. 'value:' .. args.id, value, 'PXAT', string.format('%.0f', ends))
  for _, name in ipairs({'ends', 'of:' .. args.tenant}) do redis.call('ZADD', prefix .. name, ends, entry) end
  redis.call('ZINCRBY', prefix .. 'bytes', bytes, args.tenant)
  redis.call('INCRBY', prefix .. 'total', bytes)
  for _, name in ipairs({'ends', 'of:' .. args.tenant, 'bytes', 'total'}) do live_until(name, ends) end
  return {ends, forgotten}
end

-- Returns 1 where there was a value.
function operations.delete()
  return forget_id(args.id, args.tenant) and 1 or 0
end

local function call(keys, words)
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  prefix, args = '{' .. keys[1] .. '}:', cjson.decode(words[2])
  return operations[words[1]](words[3])
end

redis.register_function(FUNCTION, call)
redis.register_function{function_name = FUNCTION .. '_when_full', callback = call, flags = {'allow-oom'}}
