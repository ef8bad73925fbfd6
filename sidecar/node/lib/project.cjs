'use strict';

/**
 * What can be known about the application in this process: dependencies, package manager and framework.
 *
 * A dependency need not be in use: a plain http server whose package.json lists fastify is not a fastify application.
 * So a framework is reported if one of its files is loaded. Node shows the loaded CommonJS files and the main script,
 * but no ES modules. So a dependency that can be in use as ES modules alone is reported if nothing else is loaded.
 */

const fs = require('node:fs');
const path = require('node:path');

// Each framework stands before those that it builds on, because the first match counts:
// [package, framework, whether it can be in use as ES modules alone]
const FRAMEWORKS = [
  ['next', 'nextjs', false],
  ['@remix-run/dev', 'remix', true],
  ['nuxt', 'nuxt', true],
  ['astro', 'astro', true],
  ['@nestjs/core', 'nestjs', false],
  ['@adonisjs/core', 'adonis', true],
  ['sails', 'sails', false],
  ['hono', 'hono', true],
  ['fastify', 'fastify', false],
  ['koa', 'koa', false],
  ['@hapi/hapi', 'hapi', false],
  ['express', 'express', false],
  ['vite', 'vite', false],
];

const CANDIDATES = new Set([
  ...FRAMEWORKS.map(([name]) => name),
  'prisma',
  'drizzle-orm',
  'typeorm',
  'sequelize',
]);

const LOCK_FILES = [
  ['bun.lockb', 'bun'],
  ['bun.lock', 'bun'],
  ['pnpm-lock.yaml', 'pnpm'],
  ['yarn.lock', 'yarn'],
  ['package-lock.json', 'npm'],
];

/**
 * Read the project in a directory. `packageManager` is a field of the session, or no field if it is unknown.
 *
 * @param {string} directory
 * @returns {{ dependencies: Record<string, unknown>, packageManager: { package_manager?: string } }}
 */
function read(directory) {
  const lock = LOCK_FILES.find(([file]) => fs.existsSync(path.join(directory, file)));
  return {
    dependencies: dependenciesIn(directory),
    packageManager: lock === undefined ? {} : { package_manager: lock[1] },
  };
}

function dependenciesIn(directory) {
  try {
    const { dependencies, devDependencies } = JSON.parse(fs.readFileSync(path.join(directory, 'package.json'), 'utf8'));
    return { ...dependencies, ...devDependencies };
  } catch {
    return {}; // there is no package.json, or it is not valid
  }
}

/**
 * Return the dependencies that tell which kind of application this is.
 *
 * @param {Record<string, unknown>} dependencies
 * @returns {string[]}
 */
function candidates(dependencies) {
  return Object.keys(dependencies).filter((name) => CANDIDATES.has(name));
}

/**
 * Return the framework in use, as a field of the session, or no field if it is unknown.
 *
 * A loaded package that is not a dependency counts less, because another package may have loaded it.
 *
 * @param {Record<string, unknown>} dependencies
 * @param {Set<string>} loaded The names of the packages of which a file is loaded.
 * @returns {{ framework?: string }}
 */
function framework(dependencies, loaded) {
  const isDependency = (name) => Object.hasOwn(dependencies, name);
  const found =
    FRAMEWORKS.find(([name]) => loaded.has(name) && isDependency(name)) ??
    FRAMEWORKS.find(([name]) => loaded.has(name)) ??
    FRAMEWORKS.find(([name, , isHidden]) => isHidden && isDependency(name));
  return found === undefined ? {} : { framework: found[1] };
}

/**
 * Return the names of the packages of which the main script or a CommonJS file is loaded.
 *
 * @returns {Set<string>}
 */
function loadedPackages() {
  return new Set([...Object.keys(require.cache), mainScript()].map(packageOf));
}

function mainScript() {
  try {
    return fs.realpathSync(process.argv[1]); // node_modules/.bin holds links
  } catch {
    return ''; // `node -e` has none
  }
}

/** Return the package of a file, which is named after the last node_modules of its path. */
function packageOf(file) {
  const [, scope, name] = /.*\/node_modules\/([^/]+)\/([^/]+)/s.exec(file) ?? ['', ''];
  return scope?.startsWith('@') ? `${scope}/${name}` : scope;
}

module.exports = { candidates, framework, loadedPackages, read };
