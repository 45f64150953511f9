'use strict';
// Runs the points of a test program in order, and prints if each passes or fails.
// A later point may use the results of an earlier one.

const points = [];

/** Registers a function as a point. It fails if it throws an error. */
function point(name, run) {
  points.push({name, run});
}

/** Registers a function that must fail with 501 and a message that contains `text`. */
function absent(name, text, run) {
  point(`${name} (501)`, async () => {
    let refusal;
    try {
      await run();
    } catch (error) {
      refusal = error;
    }
    if (!refusal) throw new Error('it was not refused');
    if (![501, 12].includes(refusal.code)) throw refusal;
    if (!String(refusal.message).includes(text)) {
      throw new Error(`the refusal does not name ${text}: ${refusal.message}`);
    }
  });
}

/** Runs all points, and exits with 1 if one failed. */
async function run() {
  let failed = 0;
  for (const {name, run} of points) {
    try {
      await run();
      console.log(`PASS ${name}`);
    } catch (error) {
      failed += 1;
      const text = String(error && error.message).replace(/\s+/g, ' ').slice(0, 300);
      console.log(`FAIL ${name}: ${text}`);
      console.error(error);
    }
  }
  process.exit(failed ? 1 : 0);
}

module.exports = {absent, point, run};
