-- The operations. script.py has a method for each.

local operations = {}

local function belongs_to(gateway, turn)
  redis.call('SADD', prefix .. 'turns:' .. gateway, turn)
  redis.call('PEXPIRE', prefix .. 'turns:' .. gateway, DAY_MS)
  redis.call('ZADD', prefix .. 'gateways', 'NX', now + args.ttl_ms, gateway) -- it may die before its next beat
  redis.call('PEXPIRE', prefix .. 'gateways', DAY_MS)
end

-- A turn sets a step aside only where every limit has room for so many of them: else others might need it. The end of one
-- that found so many places free may be told a little later.
local AMPLE = 64

-- Takes one `step` for a turn that holds `picos`, where there is ample room for it. Returns whether it did.
local function take_aside(state, step, picos)
  if allowed(state, step, AMPLE, picos) < AMPLE then return false end
  local vector = times(step, 1)
  vector.micros = micros_of(state, step, 1, picos)
  take(state, vector)
  return true
end

-- Opens an account, if no limit refuses it. `needs` must be left of each limit, `take` is taken; `picos` is its cost.
-- `aside`: a step that is taken too where there is ample room; nil = none.
-- `instead_of`: an account that this one goes on for, nil = none. It is closed, and its places are free for this one.
-- Returns {'ok', 0, 0, windows, 1 where the step was set aside, 1 where places are ample}, {'refused', number of the limit,
-- ms to wait, windows, 0, 0}, {'missing', subjects …} or {'closed'}.
function operations.open()
  local state = read_turn(args.turn)
  if state then return state.answer end
  if is_closed(args.turn) then return {'closed'} end
  local missing = find_missing(args.limits, {})
  if #missing > 0 then return {'missing', unpack(missing)} end
  state = new_state(args.gateway, args.limits)
  local former, until_ms
  if args.instead_of then former = read_turn(args.instead_of) end
  if former then until_ms = vacate(args.instead_of, former) end
  local fits, by, wait = allowed(state, args.needs, 1, 0)
  if fits == 0 then
    if until_ms and until_ms > now then hold_open(args.instead_of, former, until_ms) end
    return {'refused', by, wait, state_of_windows(args.limits), 0, 0}
  end
  -- Whoever had it renews it as long as it does not know.
  if former then close(args.instead_of, former, former.so_far, '', DAY_MS) end
  args.take.micros = micros_of(state, {picos = args.picos}, 1, 0)
  take(state, args.take)
  hold_open(args.turn, state, now + args.ttl_ms)
  belongs_to(args.gateway, args.turn)
  state.so_far = args.so_far
  state.answer = {'ok', 0, 0, state_of_windows(args.limits), 0, has_places_left(state, AMPLE) and 1 or 0}
  if args.aside and take_aside(state, args.aside, args.picos) then state.answer[5] = 1 end
  write_turn(args.turn, state, records[1])
  return state.answer
end

-- Takes steps for an open turn, part after part: up to `most` of each; fewer than `least` are none, also of the parts
-- after it. A step of negative units gives them back. Without `so_far` and a record those of the last call stay.
-- Returns {'ok', and of each part: steps, number of the limit that allowed no more (0 = none), ms to wait},
-- {'missing', subjects …}, {'unknown'} or {'closed'}.
function operations.draw()
  local state = read_turn(args.turn)
  if not state then return {is_closed(args.turn) and 'closed' or 'unknown'} end
  if state.sequence == args.sequence and state.answer[1] then return state.answer end
  local missing = find_missing(state.limits, {})
  if #missing > 0 then return {'missing', unpack(missing)} end
  join_quotas(state)
  local answer, picos = {'ok'}, args.picos
  for _, part in ipairs(args.parts) do
    local steps, by, wait = allowed(state, part.step, part.most, picos)
    local too_few = steps < part.least
    if too_few then steps = 0 end
    if steps > 0 then
      local vector = times(part.step, steps)
      vector.micros = micros_of(state, part.step, steps, picos)
      take(state, vector)
      picos = picos + steps * (part.step.picos or 0)
    end
    table.insert(answer, steps)
    table.insert(answer, by)
    table.insert(answer, wait)
    if too_few then break end
  end
  state.so_far, state.sequence, state.answer = args.so_far or state.so_far, args.sequence, answer
  write_turn(args.turn, state, records[1])
  return answer
end

-- Puts back an account that Redis has lost. It is put into the counts once they are there. Returns {'ok'} or {'closed'}.
function operations.restore()
  if is_closed(args.turn) then return {'closed'} end
  if not read_turn(args.turn) then
    local state = new_state(args.gateway, args.limits)
    state.held, state.so_far, state.sequence = args.held, args.so_far, args.sequence
    add(held_in(state, 'day'), args.held)
    add(held_in(state, 'month'), args.held)
    join_quotas(state)
    hold_open(args.turn, state, now + args.ttl_ms)
    belongs_to(args.gateway, args.turn)
    write_turn(args.turn, state, records[1])
  end
  return {'ok'}
end

-- Says that turns are still open, and how far they are. Returns the state of each ('ok', 'unknown' or 'closed'), and
-- the subjects whose counts are missing.
function operations.renew()
  local states, missing = {}, {}
  for i, row in ipairs(args.turns) do
    local state = read_turn(row.turn)
    if state then
      find_missing(state.limits, missing)
      join_quotas(state)
      hold_open(row.turn, state, now + args.ttl_ms)
      state.so_far = row.so_far
      write_turn(row.turn, state, records[i])
    end
    states[i] = state and 'ok' or (is_closed(row.turn) and 'closed' or 'unknown')
  end
  return {states, missing}
end

-- Ends a turn with what it really used, and writes its record. A turn that Redis does not know is written down too where
-- it was `opened` for sure. Returns {'ok'}, {'closed'} (it has a record already), {'none'}, {'missing', subjects …}: its
-- part of their counts would be lost, or {'uncounted'}: it has its record, and limits do not know what it used. With
-- `force` it is closed though counts are missing.
function operations.close()
  if is_closed(args.turn) then return {'closed'} end
  local done, answer = pcall(function()
    local state = read_turn(args.turn)
    if not state then
      if args.opened ~= 1 then return {'none'} end
      state = new_state('', args.limits)
    end
    local missing = find_missing(state.limits, {})
    if #missing > 0 and args.force ~= 1 then return {'missing', unpack(missing)} end
    close(args.turn, state, args.actual, records[1], CLOSED_MS)
    return {'ok'}
  end)
  if done then return answer end
  bury_uncounted(args.turn, '', records[1], answer, CLOSED_MS)
  return {'uncounted'}
end

-- Makes counts that are missing of what the control plane knows. What it knows of another period than the present one is
-- of no use.
function operations.rebuild()
  local as_of = periods_at(args.as_of_ms)
  for _, row in ipairs(args.rows) do
    if as_of[row.span] == period_ids[row.span] and not quota_of(row.subject, row.span) then
      begin_quota(row.subject, row.span, args.name)
      add_to_quota(row.subject, row.span, row.used)
    end
  end
end

-- Says that a gateway is alive. Returns the name of this memory, which is another one once Redis has lost it, and how
-- many gateways are not alive whose turns are still open.
function operations.beat()
  redis.call('SET', prefix .. 'memory', args.name, 'NX', 'PX', DAY_MS)
  redis.call('PEXPIRE', prefix .. 'memory', DAY_MS)
  redis.call('ZADD', prefix .. 'gateways', now + args.ttl_ms, args.gateway)
  redis.call('PEXPIRE', prefix .. 'gateways', DAY_MS)
  return {redis.call('GET', prefix .. 'memory'), redis.call('ZCOUNT', prefix .. 'gateways', '-inf', now)}
end

-- Closes a turn that is lost: it used what its record says. Returns whether it was open. One that can't be counted has
-- its record all the same, and those after it are closed.
local function close_lost(gateway, turn)
  local done, found = pcall(function()
    local state, record = read_turn(turn)
    if state then close(turn, state, state.so_far, record, DAY_MS) end
    return state ~= nil
  end)
  if done then return found end
  bury_uncounted(turn, gateway, redis.call('HGET', turn_key(turn), 'record') or '', found, DAY_MS)
  return true
end

-- Closes up to `most` turns of gateways that are not alive. Returns how many it closed.
function operations.reap()
  local reaped = 0
  for _, gateway in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'gateways', '-inf', now, 'LIMIT', 0, args.most)) do
    while true do
      if reaped == args.most then return reaped end
      local turn = redis.call('SPOP', prefix .. 'turns:' .. gateway)
      if not turn then break end
      if close_lost(gateway, turn) then reaped = reaped + 1 end
    end
    redis.call('ZREM', prefix .. 'gateways', gateway)
  end
  return reaped
end

-- Forgets a gateway that has closed all of its turns.
function operations.leave()
  if redis.call('EXISTS', prefix .. 'turns:' .. args.gateway) == 0 then
    redis.call('ZREM', prefix .. 'gateways', args.gateway)
  end
end

-- Runs the operations of one trip, each as if it came alone. Returns {1, answer} or {0, error} for each.
local function call(keys, words)
  local answers, taken = {}, 1
  for i, asked in ipairs(cjson.decode(words[1])) do
    local some = {}
    for n = 1, asked.records do some[n] = words[taken + n] end
    taken = taken + asked.records
    begin(keys, asked.arguments, some)
    local done, answer = pcall(operations[asked.operation])
    if not done then answer = type(answer) == 'table' and answer.err or tostring(answer) end
    if answer == nil then answer = false end -- it would end the row
    answers[i] = {done and 1 or 0, answer}
  end
  return answers
end

redis.register_function(FUNCTION, call)
redis.register_function{function_name = FUNCTION .. '_when_full', callback = call, flags = {'allow-oom'}}
