// Drives the official SDK through every control plane call it makes. Arguments:
// the directory of the package. The environment says where the server is.
const assert = require('node:assert/strict')
const path = require('node:path')

const dir = process.argv[2]
const e2b = require(dir)
const { version } = require(path.join(dir, 'package.json'))
const { Sandbox } = e2b

const ids = (list) => list.map((s) => s.sandboxId)

async function pages(opts) {
  const paginator = Sandbox.list(opts)
  const found = []
  while (paginator.hasNext) found.push(...(await paginator.nextItems()))
  return found
}

async function main() {
  // create, with and without options
  const plain = await Sandbox.create()
  assert.match(plain.sandboxId, /^i[a-z0-9]{20}$/)
  const metadata = { 'a b': 'c&d', 'ключ+%': 'значение=1', run: version }
  const named = await Sandbox.create('base', { timeoutMs: 120_000, metadata, envs: { A: '1' }, allowInternetAccess: false })
  const open = await Sandbox.create('base', { timeoutMs: 120_000, metadata: { run: version } })

  // getInfo
  const info = await named.getInfo()
  assert.equal(info.sandboxId, named.sandboxId)
  assert.deepEqual(info.metadata, metadata)
  assert.equal(info.state, 'running')
  assert.equal(info.name, 'base')
  assert.ok(info.endAt - info.startedAt > 115_000 && info.endAt - info.startedAt <= 121_000)
  assert.equal(info.cpuCount, 1)
  assert.equal(info.memoryMB, 1024)

  // list: all, by metadata, by state, page by page
  const all = await pages()
  assert.deepEqual(new Set(ids(all)), new Set([plain, named, open].map((s) => s.sandboxId)))
  assert.deepEqual(ids(await pages({ query: { metadata } })), [named.sandboxId])
  assert.deepEqual(ids(await pages({ query: { metadata: { run: version } } })), [open.sandboxId, named.sandboxId])
  assert.deepEqual(ids(await pages({ query: { metadata: { run: 'other' } } })), [])
  assert.deepEqual(ids(await pages({ query: { state: ['paused'] } })), [])
  assert.equal((await pages({ query: { state: ['running', 'paused'] } })).length, 3)
  assert.deepEqual(ids(await pages({ limit: 1 })), ids(all))

  // connect only extends; setTimeout shortens too
  const again = await Sandbox.connect(named.sandboxId, { timeoutMs: 10_000 })
  assert.equal(again.sandboxId, named.sandboxId)
  assert.ok((await again.getInfo()).endAt - info.endAt < 1000)
  await again.connect({ timeoutMs: 600_000 })
  const extended = (await again.getInfo()).endAt
  assert.ok(extended - info.endAt > 400_000)
  await named.setTimeout(30_000)
  assert.ok((await named.getInfo()).endAt < info.endAt)

  // metrics
  assert.deepEqual(await named.getMetrics(), [])

  // what is not there
  const gone = 'i' + '0'.repeat(20)
  await assert.rejects(Sandbox.connect(gone), (e) => e.name.includes('NotFound'))
  await assert.rejects(Sandbox.getInfo(gone), (e) => e.name.includes('NotFound'))
  await assert.rejects(Sandbox.setTimeout(gone, 1000), (e) => e.name.includes('NotFound'))
  assert.equal(await Sandbox.kill(gone), false)
  await assert.rejects(Sandbox.create('no-such-template'), /404|not found/)
  await assert.rejects(Sandbox.create('base', { timeoutMs: 25 * 3600 * 1000 }), /Timeout cannot be greater than 24 hours/)
  await assert.rejects(Sandbox.create('base', { apiKey: 'e2b_' + '0'.repeat(40) }), (e) => e.name === 'AuthenticationError')

  // what the server has not, and what it has in another form
  await assert.rejects(named.pause ? named.pause() : named.betaPause(), /501|pausing/)
  await assert.rejects(Sandbox.create('base', { network: { allowOut: ['nowhere at all'] } }), /network.allowOut/)
  const narrow = await Sandbox.create('base', { network: { allowOut: ['1.1.1.1', 'example.com'], denyOut: ['0.0.0.0/0'] } })
  assert.equal(await narrow.kill(), true)
  await assert.rejects(Sandbox.create('base', { lifecycle: { onTimeout: 'pause' } }), /autoPause/)

  // templates
  if (e2b.Template?.exists) {
    assert.equal(await e2b.Template.exists('base'), true)
    assert.equal(await e2b.Template.exists('no-such-template'), false)
  }

  // the server is full, the tenant over its quota: the test's node says so by name
  await assert.rejects(Sandbox.create('quota', { retries: 0 }), (e) => e.name === 'RateLimitError')
  await assert.rejects(Sandbox.create('full', { retries: 0 }), /Failed to place sandbox: the node is full/)
  await assert.rejects(Sandbox.connect('ending'), /409|is ending/)

  // kill
  assert.equal(await named.kill(), true)
  assert.equal(await named.kill(), false)
  await assert.rejects(named.getInfo(), (e) => e.name.includes('NotFound'))
  assert.equal(await Sandbox.kill(plain.sandboxId), true)
  assert.equal(await open.kill(), true)
  assert.deepEqual(await pages(), [])
}

main().then(
  () => console.log('ok', version),
  (e) => {
    console.error('FAIL', version, e)
    process.exit(1)
  },
)
