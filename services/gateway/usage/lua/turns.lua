-- Accounts of open turns. An account is a hash: `record`, the UsageRecord as it would be if the turn were lost now, and
-- `state`, a table:
--   gateway, limits    who serves the turn, and the limits that hold for it
--   held               vector of what was taken for it
--   periods            day, month → {id, held}: the part of it that was taken in that period
--   joined             subject and span → the name of the count that its part of the period is in
--   draws              subject and metric → {second, units} of the last two seconds in which any were taken: what a turn
--                      holds and does not use is of its last two draws
--   last               empty: functions of earlier releases, which may close the account, read something else there
--   so_far             vector of what `record` holds
--   sequence, answer   of the last call: one that comes twice gets the same answer and changes nothing

local CLOSED_MS = 60000 -- a call comes twice within this
local MOST_RECORDS = 300000 -- some 120 MB: Redis must not fill while nobody reads them

local function turn_key(turn) return prefix .. 'turn:' .. turn end
local function closed_key(turn) return prefix .. 'closed:' .. turn end

local function read_turn(turn)
  local row = redis.call('HMGET', turn_key(turn), 'state', 'record')
  if not row[1] then return nil end
  local state = cmsgpack.unpack(row[1])
  state.draws = state.draws or {} -- an earlier release had none
  return state, row[2]
end

-- Without a record it keeps the one that it has.
local function write_turn(turn, state, record)
  redis.call('HSET', turn_key(turn), 'state', cmsgpack.pack(state))
  if record then redis.call('HSET', turn_key(turn), 'record', record) end
  redis.call('PEXPIRE', turn_key(turn), DAY_MS)
end

local function is_closed(turn) return redis.call('EXISTS', closed_key(turn)) == 1 end

local function new_state(gateway, limits)
  return {gateway = gateway, limits = limits, held = {}, periods = {}, joined = {}, draws = {}, last = {},
          so_far = {}, sequence = 0, answer = {}}
end

local function held_in(state, span)
  local period = state.periods[span]
  if not period or period.id ~= period_ids[span] then
    period = {id = period_ids[span], held = {}}
    state.periods[span] = period
  end
  return period.held
end

local function add(vector, more)
  for metric, units in pairs(more) do vector[metric] = (vector[metric] or 0) + units end
end

-- Puts the turn into counts that do not know it: they are new, or made again after Redis lost them.
local function join_quotas(state)
  each_quota(state.limits, function(subject, span, name)
    local quota = quota_of(subject, span)
    if quota and state.joined[name] ~= quota.made then
      add_to_quota(subject, span, held_in(state, span))
      state.joined[name] = quota.made
    end
  end)
end

local function hold_open(turn, state, until_ms)
  for _, limit in ipairs(state.limits) do
    if limit.span == 'open' and state.held[limit.metric] then
      local others_ms = redis.call('PEXPIRETIME', open_key(limit)) -- negative: nobody has a place
      redis.call('ZADD', open_key(limit), until_ms, turn)
      redis.call('PEXPIREAT', open_key(limit), math.max(until_ms, others_ms))
    end
  end
end

-- Whether every limit on what runs at a time, among which this turn is, has so many places left.
local function has_places_left(state, places)
  for _, limit in ipairs(state.limits) do
    local counts = limit.span == 'open' and state.held[limit.metric]
    if counts and limit.most - redis.call('ZCARD', open_key(limit)) < places then return false end
  end
  return true
end

-- Takes the places of an open turn away. Returns until when it had them; nil = it had none.
local function vacate(turn, state)
  local until_ms
  for _, limit in ipairs(state.limits) do
    if limit.span == 'open' then
      until_ms = tonumber(redis.call('ZSCORE', open_key(limit), turn)) or until_ms
      redis.call('ZREM', open_key(limit), turn)
    end
  end
  return until_ms
end

local function used_of(limit)
  if limit.span == 'minute' then return window_of(limit).used end
  if limit.span == 'open' then return open_of(limit) end
  return quota_of(limit.subject, limit.span)[limit.metric]
end

local function wait_for(limit, units)
  if limit.span == 'minute' then return wait_for_window(limit, units) end
  if limit.span == 'open' then return wait_for_open(limit) end
  if limit.metric ~= 'micros' and units > limit.most then return -1 end
  return period_end[limit.span] - now
end

-- How many of `most` steps all limits allow; where these are fewer, the number of the limit that allows fewest, and
-- after how many ms it allows one (-1 = never). `picos` is the exact cost of what the turn holds.
local function allowed(state, step, most, picos)
  local best, by, wait = most, 0, 0
  for number, limit in ipairs(state.limits) do
    local each, left = step[limit.metric] or 0, nil
    if limit.metric == 'micros' and (step.picos or 0) > 0 then
      each = step.picos
      left = ((state.held.micros or 0) + limit.most - used_of(limit)) * PICOS - picos
    elseif each > 0 then
      left = limit.most - used_of(limit)
    end
    if left then
      local steps = math.max(math.min(floor(left / each), most), 0)
      if steps < most and steps <= best then
        local after = wait_for(limit, each)
        if steps < best or after < 0 or (wait >= 0 and after > wait) then best, by, wait = steps, number, after end
      end
    end
  end
  return best, by, wait
end

-- Returns the part of `vector` that counts in a period in which `held` was taken: no more is given back than that.
local function counted_in(held, vector)
  local found = {}
  for metric, units in pairs(vector) do found[metric] = math.max(units, -math.max(held[metric] or 0, 0)) end
  return found
end

local function take_of_window(state, limit, units)
  local name, second = limit.subject .. ' ' .. limit.metric, floor(now / 1000)
  local last = state.draws[name] or {}
  local newest = last[#last]
  if newest and newest[1] == second then
    newest[2] = newest[2] + units
  else
    table.insert(last, {second, units})
    if #last > 2 then table.remove(last, 1) end
  end
  state.draws[name] = last
  add_to_window(limit, second, units)
end

local function give_back_to_window(state, limit, units)
  local last = state.draws[limit.subject .. ' ' .. limit.metric] or {}
  for i = #last, 1, -1 do
    local given = math.min(units, last[i][2])
    if given > 0 and redis.call('HEXISTS', window_key(limit), last[i][1]) == 1 then
      add_to_window(limit, last[i][1], -given)
    end
    last[i][2], units = last[i][2] - given, units - given
  end
end

-- Takes `vector`: adds it to all counts. Negative units go to the counts that the last ones were added to, and nowhere
-- where their period is over.
local function take(state, vector)
  join_quotas(state)
  local counted = {}
  for _, span in ipairs({'day', 'month'}) do counted[span] = counted_in(held_in(state, span), vector) end
  for _, limit in ipairs(state.limits) do
    local units = vector[limit.metric] or 0
    if limit.span == 'minute' then
      if units > 0 then take_of_window(state, limit, units) end
      if units < 0 then give_back_to_window(state, limit, -units) end
    end
  end
  each_quota(state.limits, function(subject, span, name)
    local quota = quota_of(subject, span)
    if quota then add_to_quota(subject, span, counted[span]) end
  end)
  add(state.held, vector)
  for span, units in pairs(counted) do add(held_in(state, span), units) end
end

-- What `steps` steps add to the turn's cost, in whole micros.
local function micros_of(state, step, steps, picos)
  return math.max(math.ceil((picos + steps * (step.picos or 0)) / PICOS) - (state.held.micros or 0), 0)
end

local function times(step, steps)
  local vector = {}
  for metric, units in pairs(step) do
    if metric ~= 'picos' then vector[metric] = units * steps end
  end
  return vector
end

-- Forgets an account of `gateway`, and writes its record; '' = it has none.
local function bury(turn, gateway, record, remember_ms)
  redis.call('DEL', turn_key(turn))
  redis.call('SREM', prefix .. 'turns:' .. gateway, turn)
  if record ~= '' then redis.call('XADD', stream, 'MAXLEN', '~', MOST_RECORDS, '*', 'record', record) end
  redis.call('SET', closed_key(turn), '', 'PX', remember_ms)
end

-- Ends an account that can't be counted: it has its record all the same, and stands in nobody's way.
local function bury_uncounted(turn, gateway, record, problem, remember_ms)
  local told = type(problem) == 'table' and problem.err or tostring(problem)
  redis.log(redis.LOG_WARNING, 'the account of the turn ' .. turn .. ' was not counted: ' .. told)
  bury(turn, gateway, record, remember_ms)
end

-- Ends an account with what the turn really used, and writes its record. A realtime session has an account that holds its
-- place, and no record.
local function close(turn, state, actual, record, remember_ms)
  local rest = {}
  for metric, units in pairs(actual) do rest[metric] = units - (state.held[metric] or 0) end
  for metric, units in pairs(state.held) do
    if actual[metric] == nil and string.sub(metric, 1, 5) ~= 'open_' then rest[metric] = -units end
  end
  take(state, rest)
  for _, limit in ipairs(state.limits) do
    if limit.span == 'open' then redis.call('ZREM', open_key(limit), turn) end
  end
  bury(turn, state.gateway, record, remember_ms)
end

-- For each limit on a minute: its number, what is used of it, and after how many ms nothing is.
local function state_of_windows(limits)
  local found = {}
  for number, limit in ipairs(limits) do
    if limit.span == 'minute' then
      local window = window_of(limit)
      local newest = window.seconds[#window.seconds]
      table.insert(found, number)
      table.insert(found, window.used)
      table.insert(found, newest and (newest[1] + MINUTE_S + 1) * 1000 - now or 0)
    end
  end
  return found
end
