'use strict';
// Tests Cloud Storage with Google's Node client.

const assert = require('node:assert/strict');
const {generateKeyPairSync} = require('node:crypto');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const {pipeline} = require('node:stream/promises');
const {Readable} = require('node:stream');
const {Storage} = require('@google-cloud/storage');
const {absent, point, run} = require('./points');

const {privateKey} = generateKeyPairSync('rsa', {
  modulusLength: 2048,
  publicKeyEncoding: {type: 'spki', format: 'pem'},
  privateKeyEncoding: {type: 'pkcs8', format: 'pem'},
});
const storage = new Storage({
  projectId: 'project',
  apiEndpoint: process.env.STORAGE_EMULATOR_HOST,
  retryOptions: {autoRetry: false},
});
const signing = new Storage({
  projectId: 'project',
  apiEndpoint: process.env.STORAGE_EMULATOR_HOST,
  credentials: {client_email: 'signer@example.com', private_key: privateKey},
});
const bucket = storage.bucket('node-clients');
const large = Buffer.alloc(1 << 20, 'dataflow');

async function text(name) {
  const [content] = await bucket.file(name).download();
  return content.toString();
}

point('create, get and list buckets', async () => {
  const [created] = await storage.createBucket('node-clients');
  assert.equal(created.metadata.name, 'node-clients');
  assert.deepEqual(await bucket.exists(), [true]);
  const [buckets] = await storage.getBuckets();
  assert.ok(buckets.some(found => found.name === 'node-clients'));
  assert.deepEqual(await storage.bucket('nowhere').exists(), [false]);
});

point('labels of a bucket', async () => {
  await bucket.setLabels({team: 'a'});
  const [labels] = await bucket.getLabels();
  assert.deepEqual(labels, {team: 'a'});
});

point('save as it is by default (resumable)', async () => {
  await bucket.file('saved').save('hello');
  assert.equal(await text('saved'), 'hello');
});

point('save in one request', async () => {
  await bucket.file('simple').save('hello', {resumable: false, contentType: 'text/plain'});
  assert.equal(await text('simple'), 'hello');
});

point('upload and download a file', async () => {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'clients-'));
  try {
    fs.writeFileSync(path.join(folder, 'one'), large);
    await bucket.upload(path.join(folder, 'one'), {destination: 'file'});
    await bucket.file('file').download({destination: path.join(folder, 'two')});
    assert.ok(large.equals(fs.readFileSync(path.join(folder, 'two'))));
  } finally {
    fs.rmSync(folder, {recursive: true});
  }
});

point('write and read streams, in chunks', async () => {
  const to = bucket.file('chunks').createWriteStream({chunkSize: 256 * 1024});
  await pipeline(Readable.from([large, large]), to);
  let bytes = 0;
  for await (const chunk of bucket.file('chunks').createReadStream()) bytes += chunk.length;
  assert.equal(bytes, 2 * large.length);
});

point('range of an object', async () => {
  const [part] = await bucket.file('saved').download({start: 1, end: 3});
  assert.equal(part.toString(), 'ell');
});

point('gzip, decompressed by the client and raw', async () => {
  await bucket.file('gzip').save('plain', {gzip: true, resumable: false});
  assert.equal(await text('gzip'), 'plain');
  const [raw] = await bucket.file('gzip').download({decompress: false});
  assert.equal(raw.readUInt16BE(0), 0x1f8b);
});

point('checksums, etag and metadata', async () => {
  await bucket.file('saved').setMetadata({metadata: {a: '1'}, cacheControl: 'no-store'});
  const [found] = await bucket.file('saved').getMetadata();
  assert.equal(found.crc32c, 'mnG7TA==');
  assert.equal(found.md5Hash, 'XUFAKrxLKna5cZ2REBfFkg==');
  assert.deepEqual([found.metadata, found.cacheControl], [{a: '1'}, 'no-store']);
  assert.ok(found.etag && found.selfLink && Date.parse(found.updated));
});

point('list by prefix and delimiter', async () => {
  for (const name of ['list/1', 'list/deep/2']) await bucket.file(name).save('x', {resumable: false});
  const query = {prefix: 'list/', delimiter: '/', autoPaginate: false};
  const [files, , response] = await bucket.getFiles(query);
  assert.deepEqual(files.map(file => file.name), ['list/1']);
  assert.deepEqual(response.prefixes, ['list/deep/']);
});

point('generation preconditions', async () => {
  const once = {resumable: false, preconditionOpts: {ifGenerationMatch: 0}};
  await bucket.file('once').save('1', once);
  await assert.rejects(bucket.file('once').save('2', once), error => error.code === 412);
  assert.equal(await text('once'), '1');
});

point('copy, rename and compose', async () => {
  await bucket.file('saved').copy(bucket.file('copied'));
  await bucket.file('copied').rename('renamed');
  await bucket.combine(['renamed', 'simple'], 'joined');
  assert.equal(await text('joined'), 'hellohello');
  assert.deepEqual(await bucket.file('copied').exists(), [false]);
});

point('signed URLs (V4) upload and download', async () => {
  const file = signing.bucket('node-clients').file('signed');
  const expires = Date.now() + 600_000;
  const [write] = await file.getSignedUrl({version: 'v4', action: 'write', expires});
  const sent = await fetch(write, {method: 'PUT', body: 'by url'});
  assert.equal(sent.status, 200);
  const [read] = await file.getSignedUrl({version: 'v4', action: 'read', expires});
  assert.equal(await (await fetch(read)).text(), 'by url');
});

point('delete objects and the bucket', async () => {
  await bucket.file('saved').delete();
  await assert.rejects(bucket.file('saved').delete(), error => error.code === 404);
  await bucket.deleteFiles({prefix: 'list/'});
  const [left] = await bucket.getFiles({prefix: 'list/'});
  assert.equal(left.length, 0);
  const [other] = await storage.createBucket('node-emptied');
  await other.delete();
  assert.deepEqual(await other.exists(), [false]);
});

absent('access control lists', 'AccessControls', () => bucket.file('simple').acl.get());
absent('public objects', 'acl', () => bucket.file('simple').makePublic());
absent('IAM policies', 'IAM policies', () => bucket.iam.getPolicy());
absent('object versions', 'versioning', () => bucket.setMetadata({versioning: {enabled: true}}));
absent('notifications', 'notification', () => bucket.getNotifications());

run();
