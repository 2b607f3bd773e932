"""What a Redis does for relays in one step each, in its own language (state/redis.py).

KEYS[1] is the prefix of all keys. An answer that begins with @ names the relay where it goes on;
any other is an error code of docs/protocol.md section 4. Every key has an end of its own, and
what strangers can make many of has a table beside it, so that the oldest goes.
"""

from __future__ import annotations

from hashlib import sha1
from typing import Final

from amesh_relay import limits

# Keys end a little later than what they stand for, which ends at the relay that has it.
_GRACE_SECONDS: Final = 10
# A relay that has not said for so long that it is there counts as dead.
ALIVE_SECONDS: Final = 5
# For all relays together; at ~120 bytes each, 120 MB.
MAX_BURNED: Final = 16 * limits.MAX_ROWS

_NUMBERS: Final = {
    "ATTEMPTS": limits.FAILED_ATTEMPTS,
    "ADDRESS_WINDOW": limits.ADDRESS_WINDOW_SECONDS,
    "CODE_WINDOW": limits.BURNED_CODE_SECONDS,
    "MAX_ROWS": limits.MAX_ROWS,
    "MAX_BURNED": MAX_BURNED,
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

-- Moments, newest first; never more than limit.
local function exhausted(key, limit, window)
  local oldest = redis.call('LINDEX', key, limit - 1)
  return oldest and tonumber(oldest) + window > now
end
local function add(key, limit, window)
  redis.call('LPUSH', key, string.format('%.6f', now))
  redis.call('LTRIM', key, 0, limit - 1)
  redis.call('EXPIRE', key, window)
end
-- A row of a table that never has more than max: the oldest goes, and what it stands for.
local function row(all, name, max, window, rows)
  redis.call('ZADD', all, now, name)
  redis.call('EXPIRE', all, window)
  redis.call('ZREMRANGEBYSCORE', all, '-inf', now - window)
  while redis.call('ZCARD', all) > max do
    local oldest = redis.call('ZPOPMIN', all)[1]
    if rows then redis.call('DEL', rows .. oldest) end
  end
end
local function failure(kind, name, window)
  local rows = prefix .. kind .. ':'
  add(rows .. name, ATTEMPTS, window)
  row(rows .. 'all', name, MAX_ROWS, window, rows)
end

local function limited(client)
  return exhausted(prefix .. 'fail:' .. client, ATTEMPTS, ADDRESS_WINDOW)
end
local function guessed(otc)
  return exhausted(prefix .. 'guess:' .. otc, ATTEMPTS, CODE_WINDOW)
end
local function alive(node)
  return redis.call('EXISTS', prefix .. 'node:' .. node) == 1
end
-- Whose code it is, and whether it waits, is used or is past; a missing one gives nil.
local function code(otc)
  return string.match(redis.call('GET', prefix .. 'code:' .. otc) or '', '^(%S+) (%a+)$')
end
local function burned(jti)
  local at = redis.call('ZSCORE', prefix .. 'burned', jti)
  return at and tonumber(at) + BURNED > now
end
"""
)

SCRIPTS: Final = {
    # otc, client, node
    "listen": _COMMON
    + """
local otc, client, node = ARGV[1], ARGV[2], ARGV[3]
if limited(client) then return 'rate_limited' end
local owner, what = code(otc)
if guessed(otc) or (owner and what ~= 'past' and alive(owner)) then
  failure('fail', client, ADDRESS_WINDOW)
  return 'otc_in_use'
end
redis.call('SET', prefix .. 'code:' .. otc, node .. ' waiting', 'EX', WAIT)
return '@' .. node
""",
    # otc, node: a code that waits there already, when its relay was out of touch
    "still": _COMMON
    + """
local otc, node = ARGV[1], ARGV[2]
local owner, what = code(otc)
if guessed(otc) or (owner and what ~= 'past' and owner ~= node and alive(owner)) then
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
if owner and what ~= 'past' and alive(owner) then
  if what == 'waiting' then
    redis.call('SET', prefix .. 'code:' .. otc, owner .. ' used', 'EX', LIFE)
    return '@' .. owner
  end
  why = 'peer_already_connected'
elseif owner or guessed(otc) then
  why = 'otc_expired'
end
failure('fail', client, ADDRESS_WINDOW)
failure('guess', otc, CODE_WINDOW)
return why
""",
    # otc, node
    "free": _COMMON
    + """
if code(ARGV[1]) == ARGV[2] then
  redis.call('SET', prefix .. 'code:' .. ARGV[1], ARGV[2] .. ' past', 'EX', PAST)
end
""",
    # jti, node
    "watch": _COMMON
    + """
local jti, node = ARGV[1], ARGV[2]
local watcher = redis.call('GET', prefix .. 'watch:' .. jti)
if watcher and watcher ~= node and alive(watcher) then return 'already_watched' end
redis.call('SET', prefix .. 'watch:' .. jti, node, 'EX', BURNED)
return '@' .. node
""",
    # jti
    "announce": _COMMON
    + """
local jti = ARGV[1]
local inits = prefix .. 'inits:' .. jti
if exhausted(inits, INITS, INIT_WINDOW) then return 'relay_overloaded' end
local watcher = redis.call('GET', prefix .. 'watch:' .. jti)
if not (watcher and alive(watcher)) then
  return burned(jti) and 'token_already_used' or 'no_watcher'
end
-- Only what somebody is told of counts: strangers can name any number of tokens.
add(inits, INITS, INIT_WINDOW)
return '@' .. watcher
""",
    # jti, node
    "unwatch": """
local key = KEYS[1] .. 'watch:' .. ARGV[1]
if redis.call('GET', key) == ARGV[2] then redis.call('DEL', key) end
""",
    # jti
    "burn": _COMMON
    + """
row(prefix .. 'burned', ARGV[1], MAX_BURNED, BURNED)
""",
}

# How Redis calls what it was told once.
SHAS: Final = {
    name: sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in SCRIPTS.items()
}
