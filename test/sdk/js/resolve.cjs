// Makes every name below BULKHEAD_TEST_DOMAIN resolve to the loopback, as a
// wildcard DNS record would, so that PORT-SANDBOX.DOMAIN works in the tests.
const dns = require('node:dns')

const domain = process.env.BULKHEAD_TEST_DOMAIN
const lookup = dns.lookup
dns.lookup = function (name, options, callback) {
  if (typeof options === 'function') [options, callback] = [{}, options]
  if (domain && (name === domain || name.endsWith('.' + domain))) {
    if (options && options.all) return process.nextTick(callback, null, [{ address: '127.0.0.1', family: 4 }])
    return process.nextTick(callback, null, '127.0.0.1', 4)
  }
  return lookup.call(dns, name, options, callback)
}
