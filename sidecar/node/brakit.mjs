/** The preload for `--import`. Loads brakit.cjs synchronously, which costs less than an `import` of it. */

import { createRequire } from 'node:module';

try {
  createRequire(import.meta.url)('./brakit.cjs');
} catch {
  // an application that is not counted is acceptable; one that does not start is not
}
