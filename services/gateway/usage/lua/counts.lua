-- The arguments of a call, the time, and what subjects have used.
--
-- These files are one library of Redis functions. Its only key is the stream of usage records; all other keys have its
-- name as their hash tag, so one node of a Redis Cluster holds them all. The first word is JSON: a list of operations,
-- each with its arguments and how many records it has. All of their serialized UsageRecords follow. script.py writes them.
--
-- A limit is {subject, span, metric, most}. Its span says how it counts:
--   minute  units of any 60 seconds: a sliding window of counts for each second
--   day, month (UTC)  units since it began
--   open    turns that are open
-- A vector is metric → units. The metrics of quotas are those of QUOTA_METRICS.

local MINUTE_S = 60
local DAY_MS = 86400000
local QUOTA_METRICS = {'requests', 'tokens', 'audio_ms', 'micros'}
local PICOS = 1000000 -- of a micro of the currency: prices are micros for a million units

local stream, prefix, args, records
local now        -- ms since the epoch
local period_ids -- day, month → the name of the present one
local period_end -- day, month → when it ends, ms since the epoch
local windows, quotas -- what this call has read

local function floor(number) return math.floor(number) end -- `math` is not there while the library loads

-- Howard Hinnant's algorithms for the days of the civil calendar.
local function civil(days)
  local z = days + 719468
  local era = floor(z / 146097)
  local doe = z - era * 146097
  local yoe = floor((doe - floor(doe / 1460) + floor(doe / 36524) - floor(doe / 146096)) / 365)
  local doy = doe - (365 * yoe + floor(yoe / 4) - floor(yoe / 100))
  local mp = floor((5 * doy + 2) / 153)
  local month = mp < 10 and mp + 3 or mp - 9
  return yoe + era * 400 + (month <= 2 and 1 or 0), month, doy - floor((153 * mp + 2) / 5) + 1
end

local function days_of(year, month, day)
  if month <= 2 then year = year - 1 end
  local era = floor(year / 400)
  local yoe = year - era * 400
  local doy = floor((153 * (month > 2 and month - 3 or month + 9) + 2) / 5) + day - 1
  return era * 146097 + yoe * 365 + floor(yoe / 4) - floor(yoe / 100) + doy - 719468
end

local function periods_at(ms)
  local days = floor(ms / DAY_MS)
  local year, month, day = civil(days)
  local next_year, next_month = year, month + 1
  if month == 12 then next_year, next_month = year + 1, 1 end
  return {day = string.format('%04d%02d%02d', year, month, day), month = string.format('%04d%02d', year, month)},
         {day = (days + 1) * DAY_MS, month = days_of(next_year, next_month, 1) * DAY_MS}
end

local function begin(keys, arguments, some)
  local time = redis.call('TIME')
  now = tonumber(time[1]) * 1000 + floor(tonumber(time[2]) / 1000)
  stream, prefix = keys[1], '{' .. keys[1] .. '}:'
  args, records = arguments, some
  period_ids, period_end = periods_at(now)
  windows, quotas = {}, {}
end

-- Minutes. A count of a second is over once none of its units is younger than 60 seconds.

local function window_key(limit) return prefix .. 'minute:' .. limit.subject .. ':' .. limit.metric end

local function window_of(limit)
  local key = window_key(limit)
  if windows[key] then return windows[key] end
  local window, row = {used = 0, seconds = {}}, redis.call('HGETALL', key)
  local oldest = floor(now / 1000) - MINUTE_S
  for i = 1, #row, 2 do
    local second, units = tonumber(row[i]), tonumber(row[i + 1])
    if second < oldest then
      redis.call('HDEL', key, row[i])
    else
      window.used = window.used + units
      table.insert(window.seconds, {second, units})
    end
  end
  table.sort(window.seconds, function(a, b) return a[1] < b[1] end)
  windows[key] = window
  return window
end

-- Adds to the count of one second; one that comes to nothing goes away.
local function add_to_window(limit, second, units)
  local key = window_key(limit)
  if redis.call('HINCRBY', key, second, units) <= 0 then redis.call('HDEL', key, second) end
  redis.call('EXPIRE', key, 2 * MINUTE_S)
  windows[key] = nil
end

-- After how many ms a window has room for `units`; -1 = never.
local function wait_for_window(limit, units)
  if units > limit.most then return -1 end
  local window = window_of(limit)
  local used = window.used
  for _, count in ipairs(window.seconds) do
    if used + units <= limit.most then break end
    used = used - count[2]
    if used + units <= limit.most then return (count[1] + MINUTE_S + 1) * 1000 - now end
  end
  return 0
end

-- Quotas. Each count of a period has a name of its own (`made`): a turn knows by it whether it is in there. A subject's
-- `known` says for which day and month its counts were begun. A count that was begun and is not there was lost.

local KNOWN_MS = 40 * DAY_MS

local function quota_key(subject, span) return prefix .. 'quota:' .. subject .. ':' .. period_ids[span] end

local function begin_quota(subject, span, name)
  local key, known = quota_key(subject, span), prefix .. 'known:' .. subject
  redis.call('HSET', key, 'made', name)
  redis.call('PEXPIREAT', key, period_end[span] + DAY_MS)
  redis.call('HSET', known, span, period_ids[span])
  redis.call('PEXPIRE', known, KNOWN_MS)
  quotas[key] = {made = name, requests = 0, tokens = 0, audio_ms = 0, micros = 0}
  return quotas[key]
end

-- Returns nil where the count is missing: Redis has lost it, or the subject had no quota yet.
local function quota_of(subject, span)
  local key = quota_key(subject, span)
  if quotas[key] then return quotas[key] end
  local row = redis.call('HMGET', key, 'made', unpack(QUOTA_METRICS))
  if not row[1] then
    local known = redis.call('HGET', prefix .. 'known:' .. subject, span)
    if not known or known == period_ids[span] then return nil end
    return begin_quota(subject, span, tostring(now)) -- a new day or month
  end
  local quota = {made = row[1]}
  for i, metric in ipairs(QUOTA_METRICS) do quota[metric] = tonumber(row[i + 1] or 0) end
  quotas[key] = quota
  return quota
end

local function add_to_quota(subject, span, vector)
  local key, quota = quota_key(subject, span), quota_of(subject, span)
  for _, metric in ipairs(QUOTA_METRICS) do
    local units = vector[metric] or 0
    if units ~= 0 then quota[metric] = redis.call('HINCRBY', key, metric, units) end
  end
end

-- Runs `act` once for each subject and span that has a quota.
local function each_quota(limits, act)
  local done = {}
  for _, limit in ipairs(limits) do
    local name = limit.subject .. ' ' .. limit.span
    if period_ids[limit.span] and not done[name] then
      done[name] = true
      act(limit.subject, limit.span, name)
    end
  end
end

-- Adds the subjects whose counts are missing to `missing`, a list without repeats.
local function find_missing(limits, missing)
  each_quota(limits, function(subject, span)
    if quota_of(subject, span) then return end
    for _, known in ipairs(missing) do if known == subject then return end end
    table.insert(missing, subject)
  end)
  return missing
end

-- Open turns.

local function open_key(limit) return prefix .. 'open:' .. limit.subject .. ':' .. limit.metric end

local function open_of(limit)
  redis.call('ZREMRANGEBYSCORE', open_key(limit), '-inf', now)
  return redis.call('ZCARD', open_key(limit))
end

-- After how many ms one of them is over if nobody renews it. It usually ends before.
local function wait_for_open(limit)
  if limit.most < 1 then return -1 end
  local first = redis.call('ZRANGE', open_key(limit), 0, 0, 'WITHSCORES')
  return first[2] and math.max(tonumber(first[2]) - now, 0) or 0
end
