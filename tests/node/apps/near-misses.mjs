// Starts children that differ from brakit's in one point, and one that does not. Prints which of them started.

import { scriptOf, start } from './send.mjs';

const node = process.execPath;
const script = scriptOf('graph_feature');
const scriptWith = (change) => scriptOf('graph_feature', {}, change);
const hasStarted = (file, args) => start(file, args).pid !== undefined;

console.log(
  JSON.stringify({
    "brakit's own": hasStarted(node, ['-e', script]),
    'another host': hasStarted(node, ['-e', scriptWith({ endpoint: 'https://eu.i.posthog.com/i/v0/e/' })]),
    'another path': hasStarted(node, ['-e', scriptWith({ endpoint: 'https://us.i.posthog.com/capture/' })]),
    'another library': hasStarted(node, ['-e', scriptWith({ lib: 'web' })]),
    'another kind of body': hasStarted(node, ['-e', scriptWith({ body: 'text' })]),
    'a body without properties': hasStarted(node, ['-e', scriptWith({ body: '{"event":"session"}' })]),
    'something before it': hasStarted(node, ['-e', `void 0;${script}`]),
    'one argument more': hasStarted(node, ['-e', script, 'more']),
    'another option': hasStarted(node, ['-p', script]),
    'another program': hasStarted('/usr/bin/env', ['-e', script]),
    "the application's own script": hasStarted(node, ['-e', '0']),
  }),
);
