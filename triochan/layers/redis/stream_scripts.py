"""What the engine does for named channels, each in one step: Lua scripts.

Of a channel, ``KEYS[1]`` is the stream of what waits, and of what is being handled where it is durable; behind that
name, ``:later`` (sorted: what is put off), ``:meta`` (bytes, whether it is durable, whether anybody has ever taken from
it), ``:shares`` (messages by connection), ``:idle`` (processes that wait for a message), ``:dead`` (a stream). All are
in one slot of a cluster. A message has the fields t (when it was sent or became due, ms), a (the next attempt), s (the
connection, where shares are counted), d (the content).
"""

from __future__ import annotations

GROUP = "w"
"""The consumer group of every stream."""
ABANDONED_MS = 24 * 3600 * 1000
"""After that, what was sent to a channel that no durable consumer has ever taken from is gone, as its keys are."""

_COMMON = (
    """
local base = KEYS[1]
local function clock(shift)
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000) + shift
end
local function fields(list)
  local f = {}
  for i = 1, #list, 2 do f[list[i]] = list[i + 1] end
  return f
end
local function handled(base)
  local p = redis.pcall('XPENDING', base, 'w')
  if p.err then return 0 end
  return p[1]
end
local function count(base, data, source, by)
  redis.call('HINCRBY', base .. ':meta', 'bytes', by * #data)
  if source and source ~= '' then
    if redis.call('HINCRBY', base .. ':shares', source, by) <= 0 then
      redis.call('HDEL', base .. ':shares', source)
    end
  end
end
local function add(base, t, attempt, source, data)
  redis.call('XADD', base, '*', 't', t, 'a', attempt, 's', source, 'd', data)
end
local function later(base, due, attempt, source, data)
  local serial = redis.call('HINCRBY', base .. ':meta', 'serial', 1)
  local member = string.format('%d\\n%d\\n%s\\n', serial, attempt, source) .. data
  redis.call('ZADD', base .. ':later', string.format('%.0f', due), member)
  return redis.call('ZRANK', base .. ':later', member) == 0
end
local function ring(base, bell, name, all)
  local who = redis.call('SPOP', base .. ':idle')
  while who do
    if redis.call('PUBLISH', bell .. who, name) > 0 and not all then return end
    who = redis.call('SPOP', base .. ':idle')
  end
end
local function keep(base, durable, ms)
  for _, key in ipairs({base, base .. ':later', base .. ':meta', base .. ':shares'}) do
    if durable then
      redis.call('PERSIST', key)
    else
      local left = redis.call('PTTL', key)
      if left ~= -2 and left < ms - 3600000 then redis.call('PEXPIRE', key, string.format('%.0f', ms)) end
    end
  end
end
local function dead(base, index, name, now, attempts, message, data, most)
  redis.call('XADD', base .. ':dead', 'MAXLEN', most, '*',
    'a', attempts, 'e', message, 'f', string.format('%.0f', now), 'd', data)
  redis.call('SADD', index, name)
end
local function check(base, now, source, capacity, limit, expiry, share)
  local n = redis.call('XLEN', base) + redis.call('ZCARD', base .. ':later')
  local meta = redis.call('HMGET', base .. ':meta', 'bytes', 'durable')
  local bytes = tonumber(meta[1]) or 0
  local expired = 0
  if n == 0 and bytes ~= 0 then
    redis.call('HDEL', base .. ':meta', 'bytes')
    redis.call('DEL', base .. ':shares')
    bytes = 0
  end
  if n >= capacity or bytes >= limit then
    n = n - handled(base)
    while not meta[2] and (n >= capacity or bytes >= limit) do
      local first = redis.call('XRANGE', base, '-', '+', 'COUNT', 1)[1]
      if not first then break end
      local f = fields(first[2])
      if now <= f.t + expiry then break end
      redis.call('XDEL', base, first[1])
      count(base, f.d, f.s, -1)
      n = n - 1
      bytes = bytes - #f.d
      expired = expired + 1
    end
    if n >= capacity then return 'capacity', expired, meta[2] end
    if bytes >= limit then return 'bytes', expired, meta[2] end
  end
  if share > 0 and source ~= '' then
    if (tonumber(redis.call('HGET', base .. ':shares', source)) or 0) >= share then
      return 'share', expired, meta[2]
    end
  end
  return 'ok', expired, meta[2]
end
local function put(base, name, now, source, data, delay, capacity, limit, expiry, share, bell)
  local code, expired, durable = check(base, now, source, capacity, limit, expiry, share)
  if code == 'ok' then
    if share == 0 then source = '' end
    if delay > 0 then
      if later(base, now + delay, 1, source, data) then ring(base, bell, name, true) end
    else
      add(base, string.format('%.0f', now), 1, source, data)
      ring(base, bell, name)
    end
    count(base, data, source, 1)
    if not durable then keep(base, false, delay + expiry + """
    + str(ABANDONED_MS)
    + """) end
    if redis.call('HEXISTS', base .. ':meta', 'served') == 0 then code = 'unheard' end
  end
  return {code, expired}
end
"""
)

PUT = (
    _COMMON
    + """
local now, bell = clock(ARGV[1]), ARGV[2]
local answers = {}
for i, key in ipairs(KEYS) do
  local at = i * 8 - 5
  answers[i] = put(key, ARGV[at], now, ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]),
    tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7]), bell)
end
return answers
"""
)
"""Several messages. KEYS: of each the channel. ARGV: shift, bell; of each message the channel's name, source, data,
delay, capacity, bytes, expiry, share (0: none). The answer: of each a code, and how many were dropped for it."""

TAKE = (
    _COMMON
    + """
local now = clock(ARGV[1])
local bell, name, who = ARGV[2], ARGV[3], ARGV[4]
local want, durable, expiry = tonumber(ARGV[5]), ARGV[6] == '1', tonumber(ARGV[7])
local lease, reclaim, attempts, most = ARGV[8], ARGV[9] == '1', tonumber(ARGV[10]), ARGV[11]
local expired, died, got = 0, 0, {}

local acks = {}
for i = 12, #ARGV do acks[#acks + 1] = ARGV[i] end
if #acks > 0 then
  redis.pcall('XACK', base, 'w', unpack(acks))
  redis.call('XDEL', base, unpack(acks))
end
if want == 0 then return {0, 0, 0, -1} end

local function mark()
  redis.call('HSETNX', base .. ':meta', 'served', 1)
  if durable and redis.call('HSETNX', base .. ':meta', 'durable', 1) == 1 then keep(base, true) end
end
local lasts = durable or redis.call('HEXISTS', base .. ':meta', 'durable') == 1

local due = redis.call('ZRANGEBYSCORE', base .. ':later', '-inf', string.format('%.0f', now),
  'WITHSCORES', 'LIMIT', 0, 100)
for i = 1, #due, 2 do
  local member, at = due[i], due[i + 1]
  local a, b, attempt, source = string.find(member, '^%d+\\n(%d+)\\n([^\\n]*)\\n')
  local data = string.sub(member, b + 1)
  redis.call('ZREM', base .. ':later', member)
  if not lasts and now > at + expiry then
    count(base, data, source, -1)
    expired = expired + 1
  else
    add(base, at, attempt, source, data)
  end
end

local function give(id, f, attempt)
  got[#got + 1] = {id, attempt, f.t, f.s or '', f.d}
end

if reclaim then
  local claimed = redis.pcall('XAUTOCLAIM', base, 'w', who, lease, '0-0', 'COUNT', want)
  for _, entry in ipairs(claimed.err and {} or claimed[2]) do
    local id, f = entry[1], fields(entry[2])
    local attempt = f.a + redis.call('XPENDING', base, 'w', id, id, 1)[1][4] - 1
    if attempt > attempts then
      redis.call('XACK', base, 'w', id)
      redis.call('XDEL', base, id)
      dead(base, KEYS[2], name, now, attempt - 1, 'the process that handled it ended, or was not heard of', f.d, most)
      died = died + 1
    else
      give(id, f, attempt)
    end
  end
  local others = redis.pcall('XINFO', 'CONSUMERS', base, 'w')
  for _, other in ipairs(others.err and {} or others) do
    local f = fields(other)
    if f.pending == 0 and f.idle > lease * 4 and f.name ~= who then
      redis.call('XGROUP', 'DELCONSUMER', base, 'w', f.name)
    end
  end
end

local more = #got == want
while #got < want do
  local asked = want - #got
  local read
  if durable then
    read = redis.pcall('XREADGROUP', 'GROUP', 'w', who, 'COUNT', asked, 'STREAMS', base, '>')
  else
    read = redis.pcall('XREADGROUP', 'GROUP', 'w', 'once', 'COUNT', asked, 'NOACK', 'STREAMS', base, '>')
  end
  if read and read.err then
    if not string.find(read.err, 'NOGROUP') then return redis.error_reply(read.err) end
    redis.call('XGROUP', 'CREATE', base, 'w', '0', 'MKSTREAM')
    mark()
  elseif not read then
    break
  else
    local ids = {}
    for _, entry in ipairs(read[1][2]) do
      local f = fields(entry[2])
      count(base, f.d, f.s, -1)
      ids[#ids + 1] = entry[1]
      if not lasts and now > f.t + expiry then
        expired = expired + 1
      else
        give(entry[1], f, tonumber(f.a))
      end
    end
    if not durable then redis.call('XDEL', base, unpack(ids)) end
    more = #ids == asked
    if not more then break end
  end
end
if #got == 0 then mark() end
if not more then
  redis.call('SADD', base .. ':idle', who)
elseif redis.call('SCARD', base .. ':idle') > 0 and redis.call('XLEN', base) > handled(base) then
  ring(base, bell, name)
end
local next = redis.call('ZRANGE', base .. ':later', 0, 0, 'WITHSCORES')
return {expired, died, more and 1 or 0, next[2] and math.max(0, next[2] - now) or -1, unpack(got)}
"""
)
"""KEYS: the channel, the index of dead letters. ARGV: shift, bell, name, who takes, how many, durable, expiry, lease,
whether to look for what a dead process left, attempts, dead letters, and what has been handled. The answer: expired,
dead by now, whether there may be more (else the process is rung), ms until the next one is due (-1: none is put off),
and [id, attempt, t, source, data] of each."""

BACK = (
    _COMMON
    + """
local now = clock(ARGV[1])
for i = 4, #ARGV, 5 do
  local id, attempt, t, source, data = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
  local mine = true
  if id ~= '' then
    mine = redis.call('XACK', base, 'w', id) == 1
    redis.call('XDEL', base, id)
  end
  if mine then
    add(base, t, attempt, source, data)
    count(base, data, source, 1)
  end
end
if redis.call('XLEN', base) > handled(base) then ring(base, ARGV[2], ARGV[3]) end
return 1
"""
)
"""What was taken and not handled. KEYS: the channel. ARGV: shift, bell, name; of each message id (empty: it was taken
at most once), attempt, t, source, data."""

FAIL = (
    _COMMON
    + """
local now = clock(ARGV[1])
local bell, name, id, attempt = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local source, data, message, delay = ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
if redis.call('XACK', base, 'w', id) == 0 then return 'gone' end
redis.call('XDEL', base, id)
if attempt >= tonumber(ARGV[10]) then
  dead(base, KEYS[2], name, now, attempt, message, data, ARGV[11])
  return 'dead'
end
count(base, data, source, 1)
if later(base, now + delay, attempt + 1, source, data) then ring(base, bell, name, true) end
return 'later'
"""
)
"""A message whose handler raised. KEYS: the channel, the index of dead letters. ARGV: shift, bell, name, id, attempt,
source, data, error, ms until the next try, attempts, dead letters. The answer: what became of it."""

RENEW = (
    _COMMON
    + """
local lost = {}
for i = 2, #ARGV do
  local id = ARGV[i]
  local p = redis.pcall('XPENDING', base, 'w', id, id, 1)
  if p.err or not p[1] or p[1][2] ~= ARGV[1] then
    lost[#lost + 1] = id
  else
    redis.call('XCLAIM', base, 'w', ARGV[1], 0, id, 'JUSTID')
  end
end
return lost
"""
)
"""What a process still handles. KEYS: the channel. ARGV: who, ids. The answer: those that are not its any more."""

WAITING = (
    _COMMON
    + """
return redis.call('XLEN', base) - handled(base) + redis.call('ZCARD', base .. ':later')
"""
)

RING = (
    _COMMON
    + """
if redis.call('XLEN', base) > handled(base) then ring(base, ARGV[1], ARGV[2]) end
return 1
"""
)
"""Somebody was woken and takes nothing: wake another one. KEYS: the channel. ARGV: bell, name."""

SERVE = (
    _COMMON
    + """
for i, key in ipairs(KEYS) do
  redis.call('HSET', key .. ':meta', 'served', 1)
  redis.call('PERSIST', key .. ':meta')
  if ARGV[i] == '1' then
    redis.call('HSET', key .. ':meta', 'durable', 1)
    keep(key, true)
  end
end
return 1
"""
)
"""KEYS: channels that a process takes from. ARGV: of each, whether it is durable."""

SEND_AGAIN = (
    _COMMON
    + """
local entry = redis.call('XRANGE', base .. ':dead', ARGV[4], ARGV[4])[1]
if not entry then return {'none', 0} end
local answer = put(base, ARGV[3], clock(ARGV[1]), '', fields(entry[2]).d, 0, tonumber(ARGV[5]), tonumber(ARGV[6]),
  tonumber(ARGV[7]), 0, ARGV[2])
if answer[1] == 'ok' or answer[1] == 'unheard' then redis.call('XDEL', base .. ':dead', ARGV[4]) end
return answer
"""
)
"""KEYS: the channel. ARGV: shift, bell, name, id, capacity, bytes, expiry. The answer: as one of PUT's, or none."""

HOLD = """
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
if tonumber(ARGV[2]) > 0 then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
elseif held then
  redis.call('DEL', KEYS[1])
end
return 1
"""
"""KEYS: what is held. ARGV: who asks, ms (0: let go). The answer: 1, or 0: another has it."""
