-- Writes one stock, unless what is there is newer. Both keys change together: no reader sees one without the other.
-- KEYS: the plain number, the hash. ARGV: version, a version that is replaced though it is higher (or nothing), available, reserved,
-- sold, status. Answers 1, or 0 when what is there is newer.
local there = redis.pcall('HGET', KEYS[2], 'version')
if type(there) == 'table' then
  -- Not a hash, so not ours.
  redis.call('DEL', KEYS[2])
  there = false
end
if there and #there <= 16 and string.find(there, '^%d+$') then
  local version = tonumber(there)
  if version > tonumber(ARGV[1]) and version ~= tonumber(ARGV[2]) then
    return 0
  end
end
redis.call('SET', KEYS[1], ARGV[3])
redis.call('HSET', KEYS[2], 'available', ARGV[3], 'reserved', ARGV[4], 'sold', ARGV[5], 'status', ARGV[6], 'version', ARGV[1])
return 1
