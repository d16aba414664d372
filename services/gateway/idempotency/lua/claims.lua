-- Claims of idempotency keys. A claim is a string at the library's only key: "<token> <digest> <ms since the epoch>".
-- The token is that of who holds it, the digest that of the request. It expires unless its holder renews it.
-- The first word names the operation.

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function held(key)
  return string.match(redis.call('GET', key) or '', '^(%S+) (%S+) (%d+)$')
end

local function set(key, token, digest, since, ttl_ms)
  redis.call('SET', key, string.format('%s %s %.0f', token, digest, since), 'PX', ttl_ms)
end

local operations = {}

-- Takes a claim. Returns nothing where it is taken; else the digest of its holder's request, and how long it has run.
function operations.take(key, token, digest, ttl_ms)
  local holder, of, since = held(key)
  if holder and holder ~= token then return {of, now_ms() - tonumber(since)} end
  set(key, token, digest, now_ms(), ttl_ms)
  return {}
end

-- Keeps a claim, or puts it back where Redis has lost it. Returns 0 where another holds it by now.
function operations.renew(key, token, digest, ttl_ms)
  local holder = held(key)
  if holder == token then redis.call('PEXPIRE', key, ttl_ms)
  elseif holder then return 0
  else set(key, token, digest, now_ms(), ttl_ms) end
  return 1
end

function operations.free(key, token)
  if held(key) == token then redis.call('DEL', key) end
  return 1
end

local function call(keys, words)
  return operations[words[1]](keys[1], words[2], words[3], words[4])
end

redis.register_function(FUNCTION, call)
redis.register_function{function_name = FUNCTION .. '_when_full', callback = call, flags = {'allow-oom'}}
