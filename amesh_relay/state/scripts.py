"""What a Redis does for relays in one step each, in its own language (state/redis.py).

KEYS[1] is the prefix of all keys. An answer that begins with @ names the relay where it goes on;
any other is an error code of docs/protocol.md section 4.
"""

from __future__ import annotations

from typing import Final

from amesh_relay import limits

# Keys end a little later than what they stand for, which ends at the relay that has it.
_GRACE_SECONDS: Final = 10

_NUMBERS: Final = {
    "ATTEMPTS": limits.FAILED_ATTEMPTS,
    "ADDRESS_WINDOW": limits.ADDRESS_WINDOW_SECONDS,
    "CODE_WINDOW": limits.BURNED_CODE_SECONDS,
    "MAX_ROWS": limits.MAX_ROWS,
    "WAIT": limits.WAIT_SECONDS + _GRACE_SECONDS,
    "LIFE": limits.LIFE_SECONDS + _GRACE_SECONDS,
    "PAST": limits.EXPIRED_CODE_SECONDS,
    "BURNED": limits.BURNED_JTI_SECONDS,
    "INITS": limits.INITS_PER_JTI,
    "INIT_WINDOW": limits.INIT_WINDOW_SECONDS,
}
_COMMON: Final = (
    "".join(f"local {name} = {int(number)}\n" for name, number in _NUMBERS.items())
    + """
local prefix = KEYS[1]
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6

-- Moments, newest first; never more than count.
local function exhausted(key, limit, window)
  if redis.call('LLEN', key) < limit then return false end
  return tonumber(redis.call('LINDEX', key, limit - 1)) + window > now
end
local function add(key, limit, window)
  redis.call('LPUSH', key, string.format('%.6f', now))
  redis.call('LTRIM', key, 0, limit - 1)
  redis.call('EXPIRE', key, window)
end

local function limited(client)
  return exhausted(prefix .. 'fail:' .. client, ATTEMPTS, ADDRESS_WINDOW)
end
-- So many clients at most, whatever addresses somebody has: the oldest goes.
local function failed(client)
  local all = prefix .. 'fails'
  add(prefix .. 'fail:' .. client, ATTEMPTS, ADDRESS_WINDOW)
  redis.call('ZADD', all, now, client)
  redis.call('EXPIRE', all, ADDRESS_WINDOW)
  redis.call('ZREMRANGEBYSCORE', all, '-inf', now - ADDRESS_WINDOW)
  while redis.call('ZCARD', all) > MAX_ROWS do
    redis.call('DEL', prefix .. 'fail:' .. redis.call('ZPOPMIN', all)[1])
  end
end
local function guessed(otc)
  return exhausted(prefix .. 'guessed:' .. otc, ATTEMPTS, CODE_WINDOW)
end
local function alive(node)
  return redis.call('EXISTS', prefix .. 'node:' .. node) == 1
end
-- Whose code it is, and whether it waits or is used; a missing one gives nil.
local function code(otc)
  return string.match(redis.call('GET', prefix .. 'code:' .. otc) or '', '^(%S+) (%a+)$')
end
"""
)

SCRIPTS: Final = {
    # otc, client, node, 'again' or '': a relay that lost touch tells of a code that waits there.
    "listen": _COMMON
    + """
local otc, client, node, again = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == 'again'
if not again and limited(client) then return 'rate_limited' end
local owner = code(otc)
if again and owner == node then owner = nil end
if guessed(otc) or (owner and alive(owner)) then
  failed(client)
  return 'otc_in_use'
end
redis.call('SET', prefix .. 'code:' .. otc, node .. ' waiting', 'EX', WAIT)
return '@' .. node
""",
    # otc, client
    "connect": _COMMON
    + """
local otc, client = ARGV[1], ARGV[2]
if limited(client) then return 'rate_limited' end
local owner, what = code(otc)
local why = 'otc_not_found'
if owner and alive(owner) then
  if what == 'waiting' then
    redis.call('SET', prefix .. 'code:' .. otc, owner .. ' used', 'EX', LIFE)
    return '@' .. owner
  end
  why = 'peer_already_connected'
elseif owner or redis.call('EXISTS', prefix .. 'past:' .. otc) == 1 or guessed(otc) then
  why = 'otc_expired'
end
failed(client)
add(prefix .. 'guessed:' .. otc, ATTEMPTS, CODE_WINDOW)
return why
""",
    # otc, node
    "free": _COMMON
    + """
if code(ARGV[1]) == ARGV[2] then
  redis.call('DEL', prefix .. 'code:' .. ARGV[1])
  redis.call('SET', prefix .. 'past:' .. ARGV[1], 1, 'EX', PAST)
end
""",
    # jti, node
    "watch": _COMMON
    + """
local jti, node = ARGV[1], ARGV[2]
local watcher = redis.call('GET', prefix .. 'watch:' .. jti)
if watcher and watcher ~= node and alive(watcher) then return 'already_watched' end
if redis.call('EXISTS', prefix .. 'burned:' .. jti) == 1 then return 'token_already_used' end
redis.call('SET', prefix .. 'watch:' .. jti, node, 'EX', BURNED)
return '@' .. node
""",
    # jti
    "announce": _COMMON
    + """
local jti = ARGV[1]
local inits = prefix .. 'inits:' .. jti
if exhausted(inits, INITS, INIT_WINDOW) then return 'relay_overloaded' end
add(inits, INITS, INIT_WINDOW)
if redis.call('EXISTS', prefix .. 'burned:' .. jti) == 1 then return 'token_already_used' end
local watcher = redis.call('GET', prefix .. 'watch:' .. jti)
if watcher and alive(watcher) then return '@' .. watcher end
return 'no_watcher'
""",
    # jti, node
    "unwatch": """
local key = KEYS[1] .. 'watch:' .. ARGV[1]
if redis.call('GET', key) == ARGV[2] then redis.call('DEL', key) end
""",
    # jti
    "burn": _COMMON
    + """
redis.call('SET', prefix .. 'burned:' .. ARGV[1], 1, 'EX', BURNED)
""",
}
