// What every application here answers. The answer is the pid of the process that gave it.

import pg from 'pg';

const database = new pg.Client();

export async function handle(request, response) {
  const [, first] = request.url.split(/[/?]/);
  if (first === 'users') await database.query('SELECT * FROM users');
  if (first === 'fetch') await fetch(process.env.FETCH_URL);
  if (first === 'broken') void Promise.reject(new Error('nobody handles this'));
  if (first === 'slow') await new Promise((resolve) => setTimeout(resolve, 250));
  response.end(String(process.pid));
}
