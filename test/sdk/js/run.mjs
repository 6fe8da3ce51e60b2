// Runs the features of one published E2B SDK against a Bulkhead server and
// prints one JSON line for each: {"feature","ok","error","ms"}.
//
// usage: node run.mjs NODE_MODULES MODE, where MODE is headers (one plain URL),
// domain (wildcard names over TLS) or interpreter.
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'
import { core, domain } from './features.mjs'
import { interpreter } from './interpreter.mjs'

const [, , modules, mode] = process.argv
const require = createRequire(pathToFileURL(modules + '/').href)
const name = mode === 'interpreter' ? '@e2b/code-interpreter' : 'e2b'
const sdk = await import(pathToFileURL(require.resolve(name)).href)
const features = { headers: core, domain, interpreter }[mode]
const only = process.env.BULKHEAD_TEST_FEATURE

const width = Number(process.env.BULKHEAD_TEST_PARALLEL || 2)
const queue = Object.entries(features).filter(([feature]) => !only || feature.includes(only))

function limit(promise, ms) {
  let timer
  const over = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`no result within ${ms} ms`)), ms) })
  return Promise.race([promise, over]).finally(() => clearTimeout(timer))
}

async function worker() {
  for (let next = queue.shift(); next; next = queue.shift()) {
    const [feature, test] = next
    const began = performance.now()
    const made = []
    // create remembers the sandboxes of a feature, so that they end with it.
    const create = async (...args) => {
      const sandbox = await sdk.Sandbox.create(...args)
      made.push(sandbox)
      return sandbox
    }
    const result = { feature, ok: true }
    try {
      const skip = await limit(test({ sdk, Sandbox: sdk.Sandbox, create }), 60_000)
      if (typeof skip === 'string') result.skip = skip
    } catch (e) {
      result.ok = false
      result.error = String(e?.stack ?? e).slice(0, 2000)
    }
    await Promise.allSettled(made.map((s) => s.kill()))
    result.ms = Math.round(performance.now() - began)
    console.log(JSON.stringify(result))
  }
}

await Promise.all(Array.from({ length: width }, worker))
process.exit(0)
