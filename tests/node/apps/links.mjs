// Prints the real path of a package that is a link, as pnpm makes them, right after brakit's set-up.

import 'brakit';
import { createRequire } from 'node:module';

console.log(createRequire(import.meta.url).resolve('pg/package.json'));
process.exit(0);
