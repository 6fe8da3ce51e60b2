// What the code-interpreter SDK can do, one function a feature.
import assert from 'node:assert/strict'

export const interpreter = {
  'code: result and logs': async ({ create }) => {
    const s = await create()
    const e = await s.runCode('import sys\nprint("out")\nprint("err", file=sys.stderr)\n1 + 1')
    assert.equal(e.text, '2')
    assert.deepEqual(e.logs.stdout.join(''), 'out\n')
    assert.deepEqual(e.logs.stderr.join(''), 'err\n')
  },
  'code: state stays': async ({ create }) => {
    const s = await create()
    await s.runCode('x = 41')
    assert.equal((await s.runCode('x + 1')).text, '42')
  },
  'code: error with traceback': async ({ create }) => {
    const s = await create()
    const e = await s.runCode('def f():\n    return 1 / 0\nf()')
    assert.equal(e.error.name, 'ZeroDivisionError')
    assert.equal(e.error.value, 'division by zero')
    assert.match(e.error.traceback, /return 1 \/ 0|1 \/ 0/)
    assert.equal((await s.runCode('1')).text, '1')
  },
  'code: streaming': async ({ create }) => {
    const s = await create()
    const times = []
    await s.runCode('import time\nfor i in range(3):\n    print(i, flush=True)\n    time.sleep(0.3)', { onStdout: () => times.push(Date.now()) })
    assert.ok(times.length >= 3 && times.at(-1) - times[0] > 400, JSON.stringify(times))
  },
  'code: matplotlib picture and chart': async ({ create }) => {
    const s = await create()
    const e = await s.runCode('import matplotlib.pyplot as plt\nplt.plot([1, 2, 3], [4, 5, 6])\nplt.title("T")\nplt.xlabel("X")\nplt.show()')
    assert.equal(e.error, undefined, JSON.stringify(e.error))
    const r = e.results[0]
    assert.equal(Buffer.from(r.png, 'base64').subarray(1, 4).toString(), 'PNG')
    assert.equal(r.chart.type, 'line')
    assert.equal(r.chart.title, 'T')
    assert.equal(r.chart.elements[0].points.length, 3)
  },
  'code: pandas table': async ({ create }) => {
    const s = await create()
    const e = await s.runCode('import pandas as pd\npd.DataFrame({"a": [1, 2], "b": ["x", "y"]})')
    assert.match(e.results[0].html, /<table/)
    assert.deepEqual(e.results[0].data, { a: [1, 2], b: ['x', 'y'] })
  },
  'code: many result types': async ({ create }) => {
    const s = await create()
    const e = await s.runCode(`
from IPython.display import display, HTML, Markdown, JSON, SVG, Latex, Javascript
display(HTML('<b>h</b>')); display(Markdown('**m**')); display(JSON({'k': 1})); display(Latex('$x$')); display(Javascript('1'))
display(SVG('<svg xmlns="http://www.w3.org/2000/svg"/>'))
'main'`)
    const got = new Set(e.results.flatMap((r) => [...r.formats()]))
    for (const f of ['html', 'markdown', 'json', 'latex', 'javascript', 'svg']) assert.ok(got.has(f), `${f} in ${[...got]}`)
    assert.equal(e.text, 'main')
  },
  'code: environment and cwd': async ({ create }) => {
    const s = await create({ envs: { GLOBAL: 'g' } })
    const e = await s.runCode('import os\nos.environ["GLOBAL"] + os.environ["OWN"] + os.getcwd()', { envs: { OWN: 'o' } })
    assert.equal(e.text, 'go/home/user')
    assert.equal((await s.runCode('"OWN" in os.environ')).text, 'False')
  },
  'code: contexts': async ({ create }) => {
    const s = await create()
    const c = await s.createCodeContext({ cwd: '/tmp' })
    await s.runCode('y = 1', { context: c })
    assert.equal((await s.runCode('import os; os.getcwd()', { context: c })).text, '/tmp')
    assert.equal((await s.runCode('"y" in globals()')).text, 'False')
    if (s.listCodeContexts) {
      assert.ok((await s.listCodeContexts()).some((x) => x.id === c.id))
      await s.restartCodeContext(c)
      assert.equal((await s.runCode('"y" in globals()', { context: c })).text, 'False')
      await s.removeCodeContext(c)
      assert.ok(!(await s.listCodeContexts()).some((x) => x.id === c.id))
    }
  },
  'code: interrupt when the client leaves': async ({ create }) => {
    const s = await create()
    await s.runCode('1')
    await assert.rejects(s.runCode('while True: pass', { timeoutMs: 1000 }))
    const began = Date.now()
    assert.equal((await s.runCode('1 + 1')).text, '2')
    assert.ok(Date.now() - began < 10_000)
  },
  'code: a killed kernel comes back': async ({ create }) => {
    const s = await create()
    const e = await s.runCode('import os; os._exit(1)')
    assert.ok(e.error, 'the run ends with an error')
    assert.equal((await s.runCode('1 + 1')).text, '2')
  },
  'code: JavaScript': async ({ create }) => {
    const s = await create()
    const e = await s.runCode('console.log("hi"); [1, 2].map((x) => x * 2)', { language: 'js' })
    assert.equal(e.error, undefined, JSON.stringify(e.error))
    assert.match(e.logs.stdout.join(''), /hi/)
    assert.match(e.text, /2, 4/)
  },
  'code: TypeScript': async ({ create }) => {
    const s = await create()
    const e = await s.runCode('const x: number = 20; x + 1', { language: 'ts' })
    assert.equal(e.error, undefined, JSON.stringify(e.error))
    assert.match(e.text, /21/)
  },
  'code: Bash': async ({ create }) => {
    const s = await create()
    const e = await s.runCode('echo "from $((40 + 2))"', { language: 'bash' })
    assert.match(e.logs.stdout.join(''), /from 42/)
  },
  'code: unknown language': async ({ create }) => {
    const s = await create()
    await assert.rejects(s.runCode('x', { language: 'cobol' }))
  },
  'code: top-level await, magics, shell': async ({ create }) => {
    const s = await create()
    assert.equal((await s.runCode('import asyncio\nawait asyncio.sleep(0.01)\n"awaited"')).text, 'awaited')
    assert.match((await s.runCode('!echo shell')).logs.stdout.join(''), /shell/)
    assert.equal((await s.runCode('%timeit -n1 -r1 1')).error, undefined)
  },
  'code: the usual libraries': async ({ create }) => {
    const s = await create()
    const e = await s.runCode('import numpy, pandas, matplotlib, requests, scipy, sklearn, PIL\n"all"')
    assert.equal(e.error, undefined, JSON.stringify(e.error))
    assert.equal(e.text, 'all')
  },
  'limits: out of memory has its name': async ({ create }) => {
    const s = await create()
    const e = await s.runCode('x = bytearray(8 * 1024**3)\nfor i in range(0, len(x), 4096): x[i] = 1').catch((err) => ({ thrown: err }))
    const said = JSON.stringify(e.error ?? String(e.thrown))
    assert.match(said, /memory/i)
  },
}
