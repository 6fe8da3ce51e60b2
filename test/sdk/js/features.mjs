// What the core SDK can do, one function a feature, named as in the
// compatibility table. A function throws when the feature does not work, and
// returns a string when this SDK version does not have it.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'

const template = 'base'

async function until(what, probe, ms = 10_000) {
  const end = Date.now() + ms
  for (;;) {
    const got = await probe()
    if (got) return got
    if (Date.now() > end) throw new Error(`${what} did not come about within ${ms} ms`)
    await new Promise((r) => setTimeout(r, 50))
  }
}

export const core = {
  'sandbox: create and kill': async ({ create, Sandbox }) => {
    const s = await create(template)
    assert.match(s.sandboxId, /^[a-z0-9]+$/)
    assert.equal(await s.isRunning(), true)
    assert.equal(await s.kill(), true)
    assert.equal(await s.isRunning(), false)
    assert.equal(await Sandbox.kill(s.sandboxId), false)
  },
  'sandbox: metadata and info': async ({ create }) => {
    const s = await create(template, { metadata: { purpose: 'test & try', 'a b': 'ü' }, timeoutMs: 90_000 })
    const info = await s.getInfo()
    assert.equal(info.sandboxId, s.sandboxId)
    assert.equal(info.name ?? template, template)
    assert.deepEqual(info.metadata, { purpose: 'test & try', 'a b': 'ü' })
    assert.equal(info.state, 'running')
    const left = new Date(info.endAt) - Date.now()
    assert.ok(left > 60_000 && left <= 91_000, `time left ${left}`)
  },
  'sandbox: list with filter and paging': async ({ create, Sandbox }) => {
    const mark = String(Math.random())
    const made = []
    for (let i = 0; i < 3; i++) made.push((await create(template, { metadata: { mark, 'x y': 'p=q&r' } })).sandboxId)
    const pages = Sandbox.list({ query: { metadata: { mark, 'x y': 'p=q&r' } }, limit: 2 })
    const seen = []
    let rounds = 0
    while (pages.hasNext) {
      seen.push(...(await pages.nextItems()).map((i) => i.sandboxId))
      rounds++
    }
    assert.equal(rounds, 2)
    assert.deepEqual(seen, made.reverse())
  },
  'sandbox: connect from elsewhere': async ({ create, Sandbox }) => {
    const s = await create(template)
    await s.files.write('here.txt', 'same box')
    const again = await Sandbox.connect(s.sandboxId)
    assert.equal(await again.files.read('here.txt'), 'same box')
  },
  'sandbox: connect to none': async ({ sdk, Sandbox }) => {
    await assert.rejects(Sandbox.connect('i00000000000000000000'), sdk.NotFoundError)
  },
  'sandbox: set timeout, expiry': async ({ create }) => {
    const s = await create(template)
    await s.setTimeout(1500)
    await until('expiry', async () => !(await s.isRunning()))
  },
  'sandbox: environment variables': async ({ create }) => {
    const s = await create(template, { envs: { GLOBAL: 'g', BOTH: 'sandbox' } })
    const r = await s.commands.run('echo "$GLOBAL $BOTH $OWN"', { envs: { OWN: 'o', BOTH: 'command' } })
    assert.equal(r.stdout.trim(), 'g command o')
  },
  'sandbox: metrics': async ({ create }) => {
    const s = await create(template)
    const m = await until('metrics', async () => (await s.getMetrics()).at(-1))
    assert.ok(m.memTotal > 0 && m.diskTotal > 0 && m.cpuCount > 0, JSON.stringify(m))
  },
  'sandbox: unknown template': async ({ create, sdk }) => {
    await assert.rejects(create('no-such-template'), (e) => e instanceof sdk.SandboxError || e instanceof sdk.NotFoundError)
  },
  'sandbox: bad timeout': async ({ create }) => {
    await assert.rejects(create(template, { timeoutMs: 400 * 24 * 3_600_000 }), /hour/)
  },
  'sandbox: bad key': async ({ create, sdk }) => {
    await assert.rejects(create(template, { apiKey: 'e2b_' + '0'.repeat(40) }), sdk.AuthenticationError)
  },
  'sandbox: pause says that it is not there': async ({ create }) => {
    const s = await create(template)
    if (!s.pause) return 'no pause in this version'
    await assert.rejects(s.pause(), /501|not/)
    assert.equal(await s.isRunning(), true)
  },

  'commands: output and exit code': async ({ create, sdk }) => {
    const s = await create(template)
    const r = await s.commands.run('echo out; echo err >&2')
    assert.deepEqual([r.stdout, r.stderr, r.exitCode], ['out\n', 'err\n', 0])
    await assert.rejects(s.commands.run('exit 3'), (e) => e instanceof sdk.CommandExitError && e.exitCode === 3)
  },
  'commands: streaming': async ({ create }) => {
    const s = await create(template)
    const times = []
    await s.commands.run('for i in 1 2 3; do echo $i; sleep 0.3; done', { onStdout: () => times.push(Date.now()) })
    assert.equal(times.length, 3)
    assert.ok(times[2] - times[0] > 400, `lines came ${times[2] - times[0]} ms apart`)
  },
  'commands: megabytes of output': async ({ create }) => {
    const s = await create(template)
    const r = await s.commands.run('head -c 5000000 /dev/zero | tr "\\0" x')
    assert.equal(r.stdout.length, 5_000_000)
  },
  'commands: unicode across chunks': async ({ create }) => {
    const s = await create(template)
    const r = await s.commands.run(`python3 -c 'print("ü€😀" * 40000)'`)
    assert.equal(r.stdout.trim(), 'ü€😀'.repeat(40_000))
  },
  'commands: user and cwd': async ({ create }) => {
    const s = await create(template)
    assert.equal((await s.commands.run('whoami; pwd')).stdout, 'user\n/home/user\n')
    assert.equal((await s.commands.run('whoami', { user: 'root' })).stdout, 'root\n')
    assert.equal((await s.commands.run('pwd', { cwd: '/tmp' })).stdout, '/tmp\n')
    await assert.rejects(s.commands.run('pwd', { cwd: '/nowhere' }), /\/nowhere/)
    await assert.rejects(s.commands.run('pwd', { user: 'nobody-here' }), /nobody-here/)
  },
  'commands: sudo': async ({ create }) => {
    const s = await create(template)
    assert.equal((await s.commands.run('sudo id -u')).stdout.trim(), '0')
  },
  'commands: timeout': async ({ create, sdk }) => {
    const s = await create(template)
    await assert.rejects(s.commands.run('sleep 60', { timeoutMs: 1000 }), sdk.TimeoutError)
    await until('the end of the process', async () => !(await s.commands.list()).some((p) => p.args.join(' ').includes('sleep 60')))
  },
  'commands: background, list, kill': async ({ create, sdk }) => {
    const s = await create(template)
    const h = await s.commands.run('sleep 600', { background: true })
    const found = (await s.commands.list()).find((p) => p.pid === h.pid)
    assert.ok(found, 'the process is listed')
    assert.equal(await h.kill(), true)
    await assert.rejects(h.wait(), sdk.CommandExitError)
    assert.equal(await s.commands.kill(h.pid), false)
  },
  'commands: connect to a running one': async ({ create }) => {
    const s = await create(template)
    const h = await s.commands.run('sleep 1; echo late; exit 0', { background: true })
    await h.disconnect()
    let out = ''
    const again = await s.commands.connect(h.pid, { onStdout: (d) => { out += d } })
    const r = await again.wait()
    assert.equal(r.exitCode, 0)
    assert.equal(out, 'late\n')
  },
  'commands: standard input': async ({ create }) => {
    const s = await create(template)
    const h = await s.commands.run('read a; echo "got $a"', { background: true, stdin: true })
    await s.commands.sendStdin(h.pid, 'hello\n')
    assert.equal((await h.wait()).stdout, 'got hello\n')
  },
  'commands: close standard input': async ({ create }) => {
    const s = await create(template)
    const h = await s.commands.run('wc -c', { background: true, stdin: true })
    if (!s.commands.closeStdin) return 'no closeStdin in this version'
    await s.commands.sendStdin(h.pid, '12345')
    await s.commands.closeStdin(h.pid)
    assert.equal((await h.wait()).stdout.trim(), '5')
  },
  'commands: no such process': async ({ create, sdk }) => {
    const s = await create(template)
    assert.equal(await s.commands.kill(99999), false)
    await assert.rejects(s.commands.connect(99999), sdk.NotFoundError)
  },
  'commands: twenty at once': async ({ create }) => {
    const s = await create(template)
    const all = await Promise.all(Array.from({ length: 20 }, (_, i) => s.commands.run(`sleep 0.5; echo ${i}`)))
    assert.deepEqual(all.map((r) => r.stdout.trim()), Array.from({ length: 20 }, (_, i) => String(i)))
  },

  'files: write and read': async ({ create, sdk }) => {
    const s = await create(template)
    const info = await s.files.write('dir/sub/a.txt', 'häuser')
    assert.equal(info.path, '/home/user/dir/sub/a.txt')
    assert.equal(await s.files.read('dir/sub/a.txt'), 'häuser')
    await s.files.write('dir/sub/a.txt', 'shorter')
    assert.equal(await s.files.read('/home/user/dir/sub/a.txt'), 'shorter')
    await assert.rejects(s.files.read('none.txt'), sdk.NotFoundError)
  },
  'files: every format': async ({ create }) => {
    const s = await create(template)
    const bytes = new Uint8Array(70_000).map((_, i) => i % 251)
    await s.files.write('bin', bytes.buffer)
    assert.deepEqual(await s.files.read('bin', { format: 'bytes' }), bytes)
    assert.deepEqual(new Uint8Array(await (await s.files.read('bin', { format: 'blob' })).arrayBuffer()), bytes)
    const parts = []
    for await (const chunk of await s.files.read('bin', { format: 'stream' })) parts.push(chunk)
    assert.deepEqual(new Uint8Array(Buffer.concat(parts)), bytes)
    await s.files.write('blob', new Blob([bytes]))
    assert.equal((await s.commands.run('sha256sum < blob')).stdout.slice(0, 64), createHash('sha256').update(bytes).digest('hex'))
  },
  'files: empty': async ({ create }) => {
    const s = await create(template)
    await s.files.write('empty', '')
    assert.equal(await s.files.read('empty'), '')
    assert.equal((await s.files.read('empty', { format: 'bytes' })).length, 0)
  },
  'files: large': async ({ create }) => {
    const s = await create(template)
    const data = 'x'.repeat(20_000_000)
    await s.files.write('large', data)
    assert.equal((await s.files.read('large')).length, data.length)
  },
  'files: many at once': async ({ create }) => {
    const s = await create(template)
    const infos = await s.files.write([{ path: 'm/1', data: 'one' }, { path: 'm/2', data: 'two' }])
    assert.equal(infos.length, 2)
    assert.equal(await s.files.read('m/2'), 'two')
  },
  'files: stat, list, exists, rename, remove': async ({ create, sdk }) => {
    const s = await create(template)
    assert.equal(await s.files.makeDir('d/e'), true)
    assert.equal(await s.files.makeDir('d/e'), false)
    await s.files.write('d/e/f.txt', '123')
    const info = await s.files.getInfo('d/e/f.txt')
    assert.equal(info.name, 'f.txt')
    assert.equal(info.type, 'file')
    assert.equal(info.size ?? 3, 3)
    const list = await s.files.list('d', { depth: 2 })
    assert.deepEqual(list.map((e) => e.path).sort(), ['/home/user/d/e', '/home/user/d/e/f.txt'])
    assert.equal(await s.files.exists('d/e/f.txt'), true)
    const moved = await s.files.rename('d/e/f.txt', 'd/g.txt')
    assert.equal(moved.path, '/home/user/d/g.txt')
    assert.equal(await s.files.exists('d/e/f.txt'), false)
    await s.files.remove('d')
    assert.equal(await s.files.exists('d'), false)
    await assert.rejects(s.files.list('d'), sdk.NotFoundError)
    await assert.rejects(s.files.read('/home/user'), sdk.SandboxError)
  },
  'files: owner and mode': async ({ create }) => {
    const s = await create(template)
    await s.files.write('/root/secret', 'r', { user: 'root' })
    await s.files.write('mine', 'm')
    assert.equal((await s.commands.run('stat -c %U /home/user/mine')).stdout.trim(), 'user')
    assert.equal((await s.commands.run('stat -c %U /root/secret', { user: 'root' })).stdout.trim(), 'root')
  },
  'files: metadata': async ({ create }) => {
    const s = await create(template)
    const info = await s.files.write('tagged', 'x', { metadata: { author: 'a' } })
    if (info.metadata === undefined) return 'no metadata in this version'
    assert.deepEqual(info.metadata, { author: 'a' })
    assert.deepEqual((await s.files.getInfo('tagged')).metadata, { author: 'a' })
  },
  'files: symbolic link': async ({ create }) => {
    const s = await create(template)
    await s.files.write('target', 't')
    await s.commands.run('ln -s /home/user/target link')
    const info = await s.files.getInfo('link')
    assert.equal(info.symlinkTarget, '/home/user/target')
    assert.equal(await s.files.read('link'), 't')
  },
  'files: watch': async ({ create }) => {
    const s = await create(template)
    await s.files.makeDir('w')
    const events = []
    const h = await s.files.watchDir('w', (e) => events.push(e))
    await s.files.write('w/new.txt', 'x')
    await until('an event', async () => events.some((e) => e.name === 'new.txt' && e.type === 'create'))
    await s.files.remove('w/new.txt')
    await until('a remove event', async () => events.some((e) => e.name === 'new.txt' && e.type === 'remove'))
    await h.stop()
  },
  'files: watch, recursive': async ({ create }) => {
    const s = await create(template)
    await s.files.makeDir('w/deep')
    const events = []
    const h = await s.files.watchDir('w', (e) => events.push(e), { recursive: true })
    await s.files.write('w/deep/new.txt', 'x')
    await until('an event', async () => events.some((e) => e.name === 'deep/new.txt'))
    await s.files.makeDir('w/later')
    await s.files.write('w/later/x.txt', 'x')
    await until('an event below a new folder', async () => events.some((e) => e.name === 'later/x.txt'))
    await h.stop()
  },
  'files: disk full': async ({ create }) => {
    const s = await create(template)
    await assert.rejects(s.commands.run('dd if=/dev/zero of=/home/user/fill bs=4M'), /No space|exit/)
    await assert.rejects(s.files.write('one-more', 'x'.repeat(5_000_000)), /space/i)
    await s.commands.run('rm /home/user/fill')
    await s.files.write('one-more', 'fits again')
  },
  'files: bad paths': async ({ create }) => {
    const s = await create(template)
    await assert.rejects(s.files.write('a\0b', 'x'))
    await assert.rejects(s.files.read('x'.repeat(5000)))
    await s.files.write('still', 'alive')
  },

  'terminal: input, output, resize': async ({ create }) => {
    const s = await create(template)
    let out = ''
    const decoder = new TextDecoder()
    const pty = await s.pty.create({ cols: 80, rows: 24, onData: (d) => { out += decoder.decode(d) } })
    await s.pty.sendInput(pty.pid, new TextEncoder().encode('stty size; echo $TERM\n'))
    await until('the size', async () => out.includes('24 80') && out.includes('xterm-256color'))
    await s.pty.resize(pty.pid, { cols: 100, rows: 40 })
    await s.pty.sendInput(pty.pid, new TextEncoder().encode('stty size; exit\n'))
    await until('the new size', async () => out.includes('40 100'))
    assert.equal((await pty.wait()).exitCode, 0)
  },
  'git: clone, commit, status': async ({ create }) => {
    const s = await create(template)
    if (!s.git) return 'no git in this version'
    await s.git.init('repo')
    await s.git.configureUser('A', 'a@example.com', { scope: 'global' })
    await s.files.write('repo/a', 'x')
    await s.git.add('repo')
    await s.git.commit('repo', 'first')
    assert.equal((await s.git.status('repo')).isClean ?? true, true)
  },
  'limits: a fork bomb ends alone': async ({ create }) => {
    const s = await create(template)
    await s.commands.run(`python3 -c 'import os
while True:
    try: os.fork()
    except OSError: pass'`, { timeoutMs: 20_000 }).catch(() => {})
    const other = await create(template)
    assert.equal((await other.commands.run('echo fine')).stdout, 'fine\n')
  },
  'limits: the box says its own size': async ({ create }) => {
    const s = await create(template)
    const total = Number((await s.commands.run("awk '/MemTotal/{print $2}' /proc/meminfo")).stdout)
    assert.ok(total <= 1_100_000, `MemTotal ${total} kB`)
    assert.equal((await s.commands.run('nproc')).stdout.trim(), '2')
  },
}

// What needs names below a domain, and TLS.
export const domain = {
  'host: a port by name, over TLS': async ({ create }) => {
    const s = await create(template)
    await s.commands.run('mkdir -p www && echo hello > www/index.html')
    await s.commands.run('cd www && python3 -m http.server 3000', { background: true })
    const url = `https://${s.getHost(3000)}`
    const text = await until('the server', async () => {
      const r = await fetch(url)
      return r.ok && r.text()
    })
    assert.equal(text, 'hello\n')
    const closed = await fetch(`https://${s.getHost(3999)}`)
    assert.equal(closed.status, 502)
    assert.equal((await closed.json()).port, 3999)
  },
  'files: signed URLs': async ({ create }) => {
    const s = await create(template)
    const up = await s.uploadUrl('signed.txt', { useSignature: true, useSignatureExpiration: 60 })
    const form = new FormData()
    form.append('file', new Blob(['by url']), 'signed.txt')
    const put = await fetch(up, { method: 'POST', body: form })
    assert.equal(put.status, 200, await put.text())
    const down = await s.downloadUrl('signed.txt', { useSignature: true, useSignatureExpiration: 60 })
    assert.equal(await (await fetch(down)).text(), 'by url')
    const forged = await fetch(down.replace(/signature=v1_..../, 'signature=v1_AAAA'))
    assert.equal(forged.status, 401)
  },
  'sandbox: secured': async ({ create }) => {
    const s = await create(template, { secure: true })
    await s.files.write('a', 'x')
    const r = await fetch(`https://${s.getHost(49983)}/files?path=a`)
    assert.equal(r.status, 401)
    const init = await fetch(`https://${s.getHost(49983)}/init`, { method: 'POST', body: '{}' })
    assert.equal(init.status, 404)
  },
  'network: private traffic': async ({ create }) => {
    const s = await create(template, { network: { allowPublicTraffic: false } })
    const token = s.trafficAccessToken
    if (!token) return 'no traffic token in this version'
    await s.commands.run('python3 -m http.server 3000', { background: true })
    const url = `https://${s.getHost(3000)}`
    assert.equal((await fetch(url)).status, 403)
    await until('the server', async () => (await fetch(url, { headers: { 'e2b-traffic-access-token': token } })).ok)
  },
  'network: mask the host': async ({ create }) => {
    const s = await create(template, { network: { maskRequestHost: 'localhost:${PORT}' } })
    await s.files.write('echo.py', `
import http.server
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(self.headers['Host'].encode())
http.server.HTTPServer(('', 3000), H).serve_forever()`)
    await s.commands.run('python3 echo.py', { background: true })
    const text = await until('the server', async () => {
      const r = await fetch(`https://${s.getHost(3000)}`)
      return r.ok && r.text()
    })
    assert.equal(text, 'localhost:3000')
  },
  'commands: over TLS, two hundred streams': async ({ create }) => {
    const s = await create(template)
    const all = await Promise.all(Array.from({ length: 200 }, () => s.commands.run('sleep 30', { background: true })))
    assert.equal((await s.commands.run('echo still')).stdout, 'still\n')
    await Promise.all(all.map((h) => h.kill()))
  },
}
