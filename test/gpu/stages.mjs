// The stages of test/gpu/run.sh: node test/gpu/stages.mjs OUT [STAGE...]
// Each has a time limit of its own and leaves JSON in OUT; what it printed lies in OUT/logs.tar.gz, what came of all of them,
// on which machine and from which commit, in OUT/run.json, which is written anew after each stage.
// The exit status is the sum of the numbers of the stages that failed: machine 1, tests 2, golden 4, sanitizer 8, train 16,
// bench 32.
//   GPU_SECONDS   of the whole call; a stage that finds no time left is not run, and counts as failed. Default 540
//   GPU_SMALL=1   tiny sizes, to try all of it on test/cuda-on-cpu (with POLYGRAD_NATIVE_PATH)
import { execFileSync, spawn } from 'node:child_process'
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'

process.chdir(fileURLToPath(new URL('../..', import.meta.url)))
const [to, ...chosen] = process.argv.slice(2)
const out = resolve(to ?? 'runs/gpu')
const logs = join(tmpdir(), `polygrad-gpu-logs-${process.pid}`, 'logs')
mkdirSync(out, { recursive: true })
mkdirSync(logs, { recursive: true })
const small = process.env.GPU_SMALL === '1'
const seconds = () => performance.now() / 1000
const end = seconds() + Number(process.env.GPU_SECONDS ?? 540)
const at = (name) => join(out, name)
const readJson = (path) => JSON.parse(readFileSync(path, 'utf8'))
const device = process.env.POLYGRAD_TEST_DEVICE ?? 'cuda'

/** What a short command prints, or undefined. */
function ask(command, ...args) {
  try {
    const options = { encoding: 'utf8', timeout: 60_000, stdio: ['ignore', 'pipe', 'ignore'] }
    return execFileSync(command, args, options).trim()
  } catch {
    return undefined
  }
}

/**
 * Runs a command to its end or to a limit, then with all that it started; what it prints is added to a log.
 * @returns its exit status, or 'time' when it took too long
 */
function run(log, limit, command, args, env = {}) {
  const file = openSync(join(logs, `${log}.log`), 'a')
  return new Promise((done) => {
    const child = spawn(command, args, {
      detached: true,
      stdio: ['ignore', file, file],
      env: { ...process.env, ...env },
    })
    let late = false
    const stop = () => {
      late = true
      try {
        process.kill(-child.pid, 'SIGKILL')
      } catch {}
    }
    const timer = setTimeout(stop, 1000 * Math.max(1, limit))
    const ended = (status) => {
      clearTimeout(timer)
      closeSync(file)
      done(late ? 'time' : status)
    }
    child.on('error', () => ended(127))
    child.on('close', (status, signal) => ended(status ?? `signal ${signal}`))
  })
}

const logOf = (log) => {
  const path = join(logs, `${log}.log`)
  return existsSync(path) ? readFileSync(path, 'utf8') : ''
}

// ---- the stages: each returns what it found, with `ok`

async function machine() {
  const query = 'name,driver_version,memory.total,memory.used,clocks.max.sm,power.limit,compute_cap'
  const [card, driver, memory, used, clock, power, capability] =
    ask('nvidia-smi', `--query-gpu=${query}`, '--format=csv,noheader')?.split('\n')[0]?.split(', ') ?? []
  const status = await run('machine', 60, process.execPath, [
    'dist/cli/main.js',
    'doctor',
    '--json',
    '--device',
    device,
  ])
  let doctor
  try {
    doctor = JSON.parse(logOf('machine'))
  } catch {}
  const python = 'import torch, triton; print(torch.__version__, triton.__version__)'
  const [torch, triton] = ask('python3', '-c', python)?.split(' ') ?? []
  return {
    ok: status === 0 && card !== undefined,
    card,
    driver,
    memory,
    used,
    clock,
    power,
    capability,
    kernel: ask('uname', '-srm'),
    libc: ask('getconf', 'GNU_LIBC_VERSION'),
    nvcc: ask('nvcc', '--version')?.split('\n').at(-1),
    sanitizer: ask('compute-sanitizer', '--version')?.match(/Version (\S+)/)?.[1],
    torch,
    triton,
    doctor,
  }
}

/** vitest over files (all of the project if none), condensed. */
async function vitest(log, limit, files, env = {}) {
  const report = join(logs, `${log}.json`)
  const args = ['node_modules/vitest/vitest.mjs', 'run', '--project', 'cuda', ...files]
  const status = await run(log, limit, process.execPath, args, {
    TEST_REPORT: report,
    POLYGRAD_TEST_COMPILED: '1', // dist/ is there, and perhaps no compiler
    NO_COLOR: '1',
    ...env,
  })
  if (!existsSync(report)) return { ok: false, status }
  const { numPassedTests: passed, numFailedTests: failed, numPendingTests: skipped, testResults } = readJson(report)
  const failures = testResults.flatMap((file) => [
    ...(file.status === 'failed' && file.message ? [{ name: file.name, message: file.message.slice(0, 500) }] : []),
    ...file.assertionResults
      .filter((t) => t.status === 'failed')
      .map((t) => ({
        name: `${file.name.split('/').at(-1)}: ${t.fullName}`,
        message: t.failureMessages[0]?.slice(0, 500),
      })),
  ])
  return { ok: status === 0 && passed > 0, status, passed, failed, skipped, failures }
}

async function tests(limit) {
  const found = await vitest('tests', limit, small ? ['test/tensor.test.ts', 'test/ops/norm.test.ts'] : [])
  writeFileSync(at('tests.json'), JSON.stringify(found, null, 1))
  return { ...found, failures: found.failures?.length }
}

/** Every golden run in both types: how far off its losses are. */
async function golden(limit) {
  const report = join(logs, 'golden.jsonl')
  const found = await vitest('golden', limit, ['test/train/precision.test.ts'], { GOLDEN_REPORT: report })
  const runs = existsSync(report)
    ? readFileSync(report, 'utf8')
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line))
    : []
  writeFileSync(at('golden.json'), JSON.stringify({ ...found, runs }, null, 1))
  const worst = (dtype, moe) =>
    Math.max(0, ...runs.filter((r) => r.dtype === dtype && r.run.startsWith('moe') === moe).map((r) => r.off))
  return {
    ok: found.ok && runs.length > 0,
    status: found.status,
    passed: found.passed,
    failed: found.failed,
    off: {
      float32: Math.max(worst('float32', false), worst('float32', true)),
      bfloat16: worst('bfloat16', false),
      bfloat16Moe: worst('bfloat16', true),
    },
  }
}

const tools = {
  memcheck: [],
  initcheck: [],
  synccheck: [],
  racecheck: ['--racecheck-report', 'all'],
}
/** One small case of each kernel under each tool; the tools side by side. */
async function sanitizer(limit) {
  if (!ask('compute-sanitizer', '--version')) return { ok: false, reason: 'compute-sanitizer is not on this machine' }
  const { families } = await import('./once.mjs')
  const until = seconds() + limit
  const cases = {}
  const one = async (tool, family) => {
    const log = `sanitizer-${tool}-${family}`
    const began = seconds()
    const status = await run(log, Math.min(180, until - seconds()), 'compute-sanitizer', [
      '--tool',
      tool,
      ...tools[tool],
      '--error-exitcode',
      '9',
      '--target-processes',
      'all',
      process.execPath,
      'test/gpu/once.mjs',
      family,
    ])
    const text = logOf(log)
    const errors = [...text.matchAll(/(?:ERROR|RACECHECK) SUMMARY: (\d+) (?:error|hazard)/g)].map((m) => Number(m[1]))
    const done = text.includes(`${family}: done`)
    const first = text.match(/^=========.*(?:Invalid|Uninitialized|Barrier|hazard|Error|Potential|Race).*$/m)?.[0]
    return {
      ok: status === 0 && done && errors.every((n) => n === 0),
      status,
      done,
      errors: errors.length ? errors.reduce((a, b) => a + b) : null,
      seconds: Math.round(10 * (seconds() - began)) / 10,
      ...(first && { first: first.slice(0, 300) }),
    }
  }
  // Some machines refuse it the device: then it says nothing of the kernels.
  const trial = await one('memcheck', 'optim')
  const refused = logOf('sanitizer-memcheck-optim').match(/^.*(?:Device not supported|not supported on this).*$/im)?.[0]
  if (refused) return { ok: false, reason: `this machine does not let it: ${refused.slice(0, 200)}` }
  await Promise.all(
    Object.keys(tools).map(async (tool) => {
      cases[tool] = {}
      for (const family of Object.keys(families)) {
        if (seconds() > until - 3) {
          cases[tool][family] = { ok: false, status: 'no time left' }
          continue
        }
        cases[tool][family] = tool === 'memcheck' && family === 'optim' ? trial : await one(tool, family)
        writeFileSync(at('sanitizer.json'), JSON.stringify(cases, null, 1))
      }
    }),
  )
  writeFileSync(at('sanitizer.json'), JSON.stringify(cases, null, 1))
  const all = Object.entries(cases).flatMap(([tool, of]) =>
    Object.entries(of).map(([name, c]) => ({ name: `${tool} ${name}`, ...c })),
  )
  const bad = all.filter((c) => !c.ok).map((c) => `${c.name}: ${c.errors ?? c.status}`)
  return { ok: bad.length === 0, cases: all.length, bad }
}

/** The 124M model: 300 steps from a graph, and the first of them again without; the same bits. */
async function train(limit) {
  const until = seconds() + limit
  const [steps, direct] = small ? [12, 6] : [300, 40]
  const data = resolve(small ? join(logs, '../small') : 'runs/text')
  // A pattern of bytes instead of the text, which the stand-in would read for minutes.
  if (small)
    for (const part of ['', '.val'])
      writeFileSync(
        `${data}${part}.bin`,
        Uint16Array.from({ length: 3000 }, (_, i) => ((i * i) >> 3) % 200),
      )
  const tiny = {
    'model.vocab_size': 256,
    'model.hidden_size': 32,
    'model.num_hidden_layers': 1,
    'model.num_attention_heads': 2,
    'model.intermediate_size': 48,
    'model.max_position_embeddings': 64,
    'data.tokenizer': 'bytes',
    'train.steps': steps,
    'train.micro_batch_size': 2,
    'train.seq_len': 16,
    'train.warmup_steps': 2,
    'train.lr': 0.05,
    'train.eval_every': 6,
    'train.eval_batches': 1,
  }
  const settings = [
    `data.train=${data}.bin`,
    ...(existsSync(`${data}.val.bin`) ? [`data.val=${data}.val.bin`, 'train.eval_every=100'] : []),
    ...(small ? Object.entries(tiny).map(([k, v]) => `${k}=${v}`) : []),
  ]
  const parts = {}
  const statuses = {}
  for (const [how, count] of [
    ['capture', steps],
    ['direct', direct],
  ]) {
    const path = join(logs, `train-${how}.json`)
    statuses[how] = await run('train', until - seconds(), process.execPath, [
      'test/gpu/train.mjs',
      path,
      String(count),
      how,
      ...settings,
    ])
    if (existsSync(path)) parts[how] = readJson(path)
  }
  writeFileSync(at('train.json'), JSON.stringify(parts))
  const { capture: a, direct: b } = parts
  if (!a) return { ok: false, statuses }
  const mean = (xs) => xs.reduce((s, x) => s + x, 0) / xs.length
  const [first, last] = [mean(a.loss.slice(0, 3)), mean(a.loss.slice(-3))]
  // Written so that NaN is no success.
  const falls = last < first - (small ? 0.01 : 2)
  const same =
    b !== undefined &&
    b.steps === direct &&
    b.loss.every((x, i) => x === a.loss[i]) &&
    b.gradNorm.every((x, i) => x === a.gradNorm[i])
  return {
    ok: a.steps === steps && falls && same,
    statuses,
    steps: a.steps,
    parameters: a.parameters,
    first,
    last,
    falls,
    valLoss: a.valLoss,
    sameBits: same,
    stepsCompared: b?.steps,
    tokensPerSecond: { capture: a.tokensPerSecond, direct: b?.tokensPerSecond },
    peakBytes: { capture: a.bytes.peak, direct: b?.bytes.peak },
    written: a.written,
  }
}

async function bench(limit) {
  const status = await run('bench', limit, process.execPath, [
    'test/gpu/bench.mjs',
    at('bench.json'),
    at('roofline.svg'),
  ])
  if (!existsSync(at('bench.json'))) return { ok: false, status }
  const { ceilings, figures, failures, unfinished = false } = readJson(at('bench.json'))
  return { ok: status === 0 && !unfinished, status, ceilings, figures: figures.length, failures, unfinished }
}

// ---- in order, whatever becomes of each

const stages = {
  machine: { bit: 1, limit: 60, do: machine },
  tests: { bit: 2, limit: 420, do: tests },
  golden: { bit: 4, limit: 240, do: golden },
  sanitizer: { bit: 8, limit: 480, do: sanitizer },
  train: { bit: 16, limit: 300, do: train },
  bench: { bit: 32, limit: 480, do: bench },
}
for (const name of chosen)
  if (!Object.hasOwn(stages, name)) {
    console.error(`run.sh: ${name} is not a stage; there are ${Object.keys(stages).join(' ')}`)
    process.exit(64)
  }
const names = chosen.length ? Object.keys(stages).filter((name) => chosen.includes(name)) : Object.keys(stages)
const commit = existsSync('.gpu/commit') ? readFileSync('.gpu/commit', 'utf8').trim() : undefined
const result = {
  command: ['test/gpu/run.sh', to, ...chosen].join(' '),
  commit: commit ?? ask('git', 'describe', '--always', '--dirty', '--abbrev=40'),
  date: new Date().toISOString(),
  node: process.version,
  small,
  card: ask('nvidia-smi', '--query-gpu=name', '--format=csv,noheader') ?? null,
  driver: ask('nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader') ?? null,
  stages: {},
}
let status = 0
function save() {
  // Longer than may travel: logs are cut in the middle.
  const most = 2 ** 20
  for (const name of execFileSync('ls', [logs], { encoding: 'utf8' }).split('\n').filter(Boolean)) {
    const path = join(logs, name)
    if (!name.endsWith('.log') || statSync(path).size <= most) continue
    const text = readFileSync(path, 'utf8')
    writeFileSync(path, `${text.slice(0, most / 2)}\n[...]\n${text.slice(-most / 2)}`)
  }
  const tar = execFileSync('tar', ['-C', join(logs, '..'), '-cf', '-', 'logs'], { maxBuffer: 2 ** 30 })
  writeFileSync(at('logs.tar.gz'), gzipSync(tar))
  writeFileSync(at('run.json'), `${JSON.stringify({ ...result, status }, null, 1)}\n`)
}
for (const name of names) {
  const { bit, limit, do: stage } = stages[name]
  const began = seconds()
  const left = end - began
  console.log(`== ${name} (${Math.round(left)} s left)`)
  let found
  if (left < 10) found = { ok: false, reason: 'no time was left' }
  else
    try {
      found = await stage(Math.min(limit, left - 5))
    } catch (error) {
      found = { ok: false, reason: String(error.stack ?? error) }
    }
  result.stages[name] = { ...found, seconds: Math.round(10 * (seconds() - began)) / 10 }
  if (!found.ok) {
    status += bit
    console.log(logOf(name).split('\n').slice(-12).join('\n'))
  }
  save()
  console.log(JSON.stringify({ [name]: result.stages[name] }))
}
rmSync(join(logs, '..'), { recursive: true, force: true })
console.log(status === 0 ? 'all stages passed' : `failed: ${names.filter((n) => !result.stages[n].ok).join(' ')}`)
process.exit(status)
