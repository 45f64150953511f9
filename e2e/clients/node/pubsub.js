'use strict';
// Tests Pub/Sub with Google's Node client.

const assert = require('node:assert/strict');
const http = require('node:http');
const {PubSub} = require('@google-cloud/pubsub');
const {absent, point, run} = require('./points');

// Longest wait for an expected event, in milliseconds.
const PATIENCE = 60_000;
const pubsub = new PubSub({projectId: 'project'});
const topic = pubsub.topic('node');

/** Fails if a promise is not settled in time. */
function inTime(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not happen`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Receives `count` messages over a stream, and acknowledges them. */
async function receive(subscription, count) {
  const texts = [];
  const all = new Promise((resolve, reject) => {
    subscription.on('error', reject);
    subscription.on('message', message => {
      texts.push(message.data.toString());
      message.ack();
      if (texts.length === count) resolve();
    });
  });
  try {
    await inTime(all, `the message ${texts.length + 1} of ${count}`);
  } finally {
    await subscription.close();
    subscription.removeAllListeners();
  }
  return texts;
}

const publish = (text, attributes) => topic.publishMessage({data: Buffer.from(text), attributes});

point('create and list topics', async () => {
  await topic.create({labels: {a: 'b'}});
  await assert.rejects(topic.create(), error => error.code === 6);
  const [topics] = await pubsub.getTopics();
  assert.ok(topics.some(found => found.name.endsWith('/node')));
});

point('publish and receive by a stream', async () => {
  const [subscription] = await topic.createSubscription('node-stream');
  await publish('one');
  assert.deepEqual(await receive(subscription, 1), ['one']);
});

point('ordering keys', async () => {
  const [subscription] = await topic.createSubscription('node-ordered', {enableMessageOrdering: true});
  const ordered = pubsub.topic('node', {messageOrdering: true});
  const texts = Array.from({length: 20}, (_, index) => String(index));
  await Promise.all(
    texts.map(text => ordered.publishMessage({data: Buffer.from(text), orderingKey: 'k'}))
  );
  assert.deepEqual(await receive(subscription, 20), texts);
});

point('filters', async () => {
  const filter = 'hasPrefix(attributes.kind, "a")';
  const [subscription] = await topic.createSubscription('node-filtered', {filter});
  await publish('no', {kind: 'b'});
  await publish('yes', {kind: 'abc'});
  assert.deepEqual(await receive(subscription, 1), ['yes']);
});

point('seek to a time', async () => {
  const options = {retainAckedMessages: true};
  const [subscription] = await topic.createSubscription('node-seek', options);
  await publish('kept');
  await receive(subscription, 1);
  await subscription.seek(new Date(Date.now() - 60_000));
  assert.deepEqual(await receive(pubsub.subscription('node-seek'), 1), ['kept']);
});

point('snapshots', async () => {
  const [subscription] = await topic.createSubscription('node-snapped');
  await publish('open');
  const [snapshot] = await subscription.createSnapshot('node-snapshot');
  await receive(subscription, 1);
  await snapshot.seek();
  assert.deepEqual(await receive(pubsub.subscription('node-snapped'), 1), ['open']);
  await snapshot.delete();
});

point('push to an endpoint of this machine', async () => {
  let take;
  const taken = new Promise(resolve => (take = resolve));
  const server = http.createServer((request, response) => {
    let body = '';
    request.on('data', chunk => (body += chunk));
    request.on('end', () => {
      response.writeHead(204).end();
      take(JSON.parse(body));
    });
  });
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve));
  const pushEndpoint = `http://127.0.0.1:${server.address().port}/push`;
  const [subscription] = await topic.createSubscription('node-push', {pushEndpoint});
  await publish('pushed');
  const body = await inTime(taken, 'the push');
  assert.equal(Buffer.from(body.message.data, 'base64').toString(), 'pushed');
  await subscription.modifyPushConfig({});
  server.close();
  server.closeAllConnections();
});

point('detach', async () => {
  await topic.createSubscription('node-detached');
  await pubsub.detachSubscription('node-detached');
  assert.deepEqual(await pubsub.subscription('node-detached').detached(), [true]);
});

point('metadata and deletion', async () => {
  const [subscription] = await topic.createSubscription('node-updated');
  await subscription.setMetadata({ackDeadlineSeconds: 42});
  const [metadata] = await subscription.getMetadata();
  assert.equal(metadata.ackDeadlineSeconds, 42);
  await subscription.delete();
  assert.deepEqual(await subscription.exists(), [false]);
});

absent('schemas', 'SchemaService', async () => {
  const schemas = await pubsub.getSchemaClient();
  await schemas.listSchemas({parent: 'projects/project'}, {autoPaginate: false, retry: null});
});
absent('IAM policies', 'IAMPolicy', () => topic.iam.getPolicy());

run();
