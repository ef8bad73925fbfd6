// The CommonJS module is the only instance, so that `import` and `require` in one process share their producers.
import client from './index.cjs';

export const { connect, emit } = client;
