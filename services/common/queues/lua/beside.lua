-- Batches beside others.
--
-- Tickets at or below BATCH get slots that are free. But each slot more in use makes an engine's steps longer, for all.
-- So while a ticket above BATCH waits or holds a slot of the stage, and for `quiet_ms` after, they get few: `share` of
-- the slots that those hold, rounded down. Where that is none, one is granted every `every_ms`, so that a batch goes on
-- beside a load that never ends.
--
-- A ticket brings these terms. Workers say how many slots such tickets hold. A ticket at the front passes: its turn has
-- or had a slot.

local function yields(priority) return priority <= BATCH end

local function arrivals_of(priority) return yields(priority) and key.batch_arrivals or key.arrivals end

-- The slots that others hold, and those that batches hold, with what this call has granted.
local function read_holds()
  if not read.others then
    local sums = read_sums()
    read.others, read.batch = sums.slots - sums.free - sums.batch, sums.batch
  end
  return read.others, read.batch
end

-- Notes a grant.
local function count_hold(priority)
  if read.others then
    if yields(priority) then read.batch = read.batch + 1 else read.others = read.others + 1 end
  end
end

local function note_others()
  if read.others_at == now then return end
  read.others_at = now
  set(key.beside, 'others', now)
end

local function note_batch_grant() set(key.beside, 'batch', now) end

-- Takes in that a worker held what `was` says (nil = it was not known) and now holds `others` and `batch` slots, before
-- `note_worker` writes it down.
local function see_worker(was, others, batch)
  local before = read_holds()
  if was then
    read.others = read.others - (was.slots - was.free - was.batch)
    read.batch = read.batch - was.batch
  end
  read.others, read.batch = read.others + others, read.batch + batch
  if before > 0 and read.others <= 0 then note_others() end -- until now
end

local function others_wait()
  local _, rank = first_of(key.ranks)
  return rank ~= nil and rank < rank_of(BATCH, -1)
end

local function others_are_here() return read_holds() > 0 or others_wait() end

-- For how many ms no other has waited or held a slot; 0 while one does. Where that is not known (the queue is new, or
-- Redis has lost its memory), it counts from now on.
local function others_away_ms()
  if others_are_here() then return 0 end
  if not read.others_at then
    local at = redis.call('HGET', key.beside, 'others')
    if at then read.others_at = tonumber(at) else note_others() end
  end
  return math.max(0, now - read.others_at)
end

-- Whether a ticket of a batch may have a free slot. Where not, `read.room_in_ms` says when it may, if time alone
-- decides.
local function has_room(ticket)
  local share, quiet_ms, every_ms = string.match(ticket.beside, '^(%S+) (%S+) (%S+)$')
  local in_ms = others_are_here() and math.huge or tonumber(quiet_ms) - others_away_ms()
  if in_ms <= 0 then return true end
  local others, batch = read_holds()
  if batch < math.floor(tonumber(share) * others + 1e-9) then return true end
  if batch == 0 then
    local last = redis.call('HGET', key.beside, 'batch')
    local due_ms = last and tonumber(last) + tonumber(every_ms) - now or 0
    if due_ms <= 0 then return true end
    in_ms = math.min(in_ms, due_ms)
  end
  if in_ms < math.huge then read.room_in_ms = math.ceil(in_ms) end
  return false
end

-- The first ticket at the front of a priority that yields, of a worker's own queue or the common one.
local function front_head(worker)
  for priority = BATCH, LOWEST, -1 do
    for _, own in ipairs(worker == '' and {''} or {worker, ''}) do
      local id, arrival = first_of(queue_of(own, priority, FRONT))
      if id then
        return {worker = own, name = head_name(arrival, priority, FRONT), priority = priority, tenant = FRONT,
                rank = rank_of(priority, -1)}
      end
    end
  end
end
