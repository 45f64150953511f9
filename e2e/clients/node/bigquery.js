'use strict';
// Tests BigQuery with Google's Node client: datasets, tables, rows, queries and jobs.

const assert = require('node:assert/strict');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const {BigQuery} = require('@google-cloud/bigquery');
const {absent, point, run} = require('./points');

const bigquery = new BigQuery({
  projectId: 'p',
  apiEndpoint: process.env.BIGQUERY_EMULATOR_HOST,
  authClient: anonymous(),
  autoRetry: false,
});
const AT = '2026-01-01T12:30:00.000005Z';
const SCHEMA = [
  {name: 'name', type: 'STRING', mode: 'REQUIRED'},
  {name: 'age', type: 'INT64'},
  {name: 'at', type: 'TIMESTAMP'},
  {name: 'tags', type: 'STRING', mode: 'REPEATED'},
];

/** Returns credentials with a dummy token, so that the client does not look for real ones. */
function anonymous() {
  const {GoogleAuth, OAuth2Client} = require('google-auth-library');
  assert(GoogleAuth);
  const client = new OAuth2Client();
  client.setCredentials({access_token: 'nobody', expiry_date: Date.now() + 3_600_000});
  return client;
}

point('create, insert and list', async () => {
  await bigquery.createDataset('n');
  const [table] = await bigquery.dataset('n').createTable('people', {schema: {fields: SCHEMA}});
  await table.insert([
    {name: 'Ann', age: 30, at: bigquery.timestamp(AT), tags: ['x', 'y']},
    {name: 'Bob', age: 20, at: null, tags: []},
  ]);
  const [rows] = await table.getRows();
  assert.equal(rows[0].at.value, '2026-01-01T12:30:00.000005000Z');
  assert.deepEqual(rows.map(row => [row.name, row.age, row.tags]), [
    ['Ann', 30, ['x', 'y']],
    ['Bob', 20, []],
  ]);
});

point('query', async () => {
  const [rows] = await bigquery.query('SELECT name, at FROM n.people ORDER BY name LIMIT 1');
  assert.equal(rows[0].name, 'Ann');
  assert.equal(rows[0].at.value, '2026-01-01T12:30:00.000005000Z');
});

point('query jobs, their metadata and pages', async () => {
  const [job] = await bigquery.createQueryJob({
    query: 'SELECT number FROM UNNEST(GENERATE_ARRAY(1, 25)) AS number',
  });
  const [rows] = await job.getQueryResults({maxResults: 10, autoPaginate: false});
  assert.equal(rows.length, 10);
  const [all] = await job.getQueryResults();
  assert.equal(all.length, 25);
  const [metadata] = await job.getMetadata();
  assert.equal(metadata.status.state, 'DONE');
  assert.equal(metadata.statistics.query.statementType, 'SELECT');
  const [jobs] = await bigquery.getJobs();
  assert(jobs.some(one => one.id === job.id));
  await job.cancel();
});

point('query parameters', async () => {
  const [named] = await bigquery.query({
    query: 'SELECT name, @ages AS ages FROM n.people WHERE name = @name AND age IN UNNEST(@ages)',
    params: {name: 'Ann', ages: [30, 31]},
  });
  assert.deepEqual(named, [{name: 'Ann', ages: [30, 31]}]);
  const [positional] = await bigquery.query({query: 'SELECT ? + ? AS sum', params: [1, 2]});
  assert.deepEqual(positional, [{sum: 3}]);
});

point('dry run', async () => {
  const [job] = await bigquery.createQueryJob({query: 'SELECT 1', dryRun: true});
  assert.equal(job.metadata.statistics.totalBytesProcessed, '0');
});

point('DML', async () => {
  const query = "UPDATE n.people SET age = age + 1 WHERE name = 'Ann'";
  const [job] = await bigquery.createQueryJob({query});
  await job.getQueryResults();
  const [metadata] = await job.getMetadata();
  assert.equal(metadata.statistics.query.numDmlAffectedRows, '1');
});

point('load a file', async () => {
  const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'bigquery-')), 'people.json');
  fs.writeFileSync(file, '{"name":"Cid","age":1}\n{"name":"Dan"}\n');
  const [job] = await bigquery.dataset('n').table('loaded').load(file, {
    sourceFormat: 'NEWLINE_DELIMITED_JSON',
    schema: {fields: SCHEMA},
  });
  assert.equal(job.status.state, 'DONE');
  const [rows] = await bigquery.query('SELECT name FROM n.loaded ORDER BY name');
  assert.deepEqual(rows, [{name: 'Cid'}, {name: 'Dan'}]);
});

point('errors', async () => {
  await assert.rejects(bigquery.query('SELEC 1'), error => {
    assert.equal(error.code, 400);
    assert.equal(error.errors[0].reason, 'invalidQuery');
    return error.message.includes('[1:1]');
  });
  await assert.rejects(bigquery.query('SELECT * FROM n.missing'), /Not found: Table p:n.missing/);
});

absent('legacy SQL', 'legacy SQL', () => bigquery.query({query: 'SELECT 1', useLegacySql: true}));

run();
