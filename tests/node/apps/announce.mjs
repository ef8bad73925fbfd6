// How an application here tells a test where it listens, and how a test ends it.

/** Print the ports as a line of JSON. */
export function announce(...ports) {
  process.stdout.write(`${JSON.stringify({ ports })}\n`);
}

/** Exit with code 0 when stdin is closed. */
export function exitWithStdin() {
  process.stdin.resume().on('end', () => process.exit(0));
}
