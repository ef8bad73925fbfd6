// Starts children of its own in each way that Node has, and prints what they print and how they end.

import 'brakit';
import { exec, execFile, execFileSync, fork, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { promisify } from 'node:util';

const SCRIPT = 'process.stdout.write("child"); process.exitCode = 5';

async function collect(child) {
  let output = '';
  child.stdout?.on('data', (chunk) => (output += chunk));
  const [code, signal] = await once(child, 'close');
  return [output, code, signal];
}

const missing = once(spawn('/nonexistent/program'), 'spawn').catch((error) => error.code);
const endless = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);
const killed = collect(endless);
endless.kill('SIGKILL');
const results = {
  spawn: await collect(spawn(process.execPath, ['-e', SCRIPT])),
  detached: await collect(spawn(process.execPath, ['-e', SCRIPT], { detached: true, stdio: 'pipe' })),
  shell: await collect(spawn('echo child', { shell: true })),
  fork: await collect(fork(new URL('plain-ends.mjs', import.meta.url), ['returns'], { silent: true })),
  execFile: await promisify(execFile)(process.execPath, ['-p', '1 + 1']),
  exec: await promisify(exec)('echo child'),
  execFileSync: String(execFileSync(process.execPath, ['-p', '1 + 1'])),
  spawnSync: spawnSync(process.execPath, ['-e', SCRIPT]).status,
  missing: await missing,
  killed: await killed,
};
console.log(JSON.stringify(results));
process.exit(0);
