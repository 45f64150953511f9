// Tests Firestore with Google's Node client: each function is a point that must pass.
//
// FIRESTORE_EMULATOR_HOST is the address of the emulator. The program prints a line for each point.
// Its exit code is 1 if a point fails.
'use strict';

const assert = require('node:assert/strict');
const {FieldValue, Filter, Firestore, GeoPoint, Timestamp} = require('@google-cloud/firestore');

// Longest wait for the result of a listener, in milliseconds.
const PATIENCE = 30000;

// Returns a client with a separate project.
const client = point =>
  new Firestore({projectId: 'node-' + point.replace(/[A-Z]/g, letter => '-' + letter.toLowerCase())});

const ids = async query => (await query.get()).docs.map(found => found.id);

// Reads the snapshots of a listener one after another.
class Snapshots {
  constructor(target, show) {
    this.queue = [];
    this.wake = () => {};
    const push = entry => {
      this.queue.push(entry);
      this.wake();
    };
    this.end = target.onSnapshot(
      snapshot => push({value: show(snapshot)}),
      error => push({error}));
  }

  async next() {
    if (this.queue.length === 0) {
      let timer;
      await new Promise((resolve, reject) => {
        this.wake = resolve;
        timer = setTimeout(() => reject(new Error('no snapshot came')), PATIENCE);
      });
      clearTimeout(timer);
    }
    const {value, error} = this.queue.shift();
    if (error) throw error;
    return value;
  }
}

const points = {
  async quickStart(db) {
    const document = db.doc('posts/intro-to-firestore');
    await document.set({title: 'Welcome to Firestore', body: 'Hello World'});
    await document.update({body: 'My first Firestore app'});
    assert.deepEqual((await document.get()).data(), {title: 'Welcome to Firestore', body: 'My first Firestore app'});
    await document.delete();
    assert.equal((await document.get()).exists, false);
  },

  async allTypesComeBack(db) {
    const document = db.doc('c/d');
    const value = {
      nothing: null,
      bool: true,
      int: 42,
      double: 1.5,
      nan: NaN,
      time: new Timestamp(1767323045, 678901000),
      text: 'ü',
      bytes: Buffer.from([0, 255]),
      point: new GeoPoint(1.5, -2.5),
      list: [1, 'a', {b: 2}],
      map: {a: {b: [1]}},
      vector: FieldValue.vector([1, 2, 3]),
    };
    await document.set(value);
    const found = (await document.get()).data();
    assert.ok(found.vector.isEqual(value.vector));
    assert.deepEqual({...found, vector: 0}, {...value, vector: 0});
  },

  async fieldsAreTransformed(db) {
    const document = db.doc('c/d');
    await document.set({count: 1, list: [1, 2], gone: 1, deep: {a: 1, b: 2}});
    const written = await document.update({
      count: FieldValue.increment(2),
      list: FieldValue.arrayUnion(2, 3),
      'deep.a': FieldValue.delete(),
      gone: FieldValue.delete(),
      at: FieldValue.serverTimestamp(),
    });
    const found = await document.get();
    assert.ok(found.updateTime.isEqual(written.writeTime));
    const {at, ...rest} = found.data();
    assert.ok(at instanceof Timestamp);
    assert.deepEqual(rest, {count: 3, list: [1, 2, 3], deep: {b: 2}});
    await document.set({list: FieldValue.arrayRemove(1, 3), deep: {c: 3}}, {merge: true});
    assert.deepEqual((await document.get()).get('list'), [2]);
    assert.deepEqual((await document.get()).get('deep'), {b: 2, c: 3});
  },

  async preconditionsHold(db) {
    const document = db.doc('c/d');
    const {writeTime} = await document.create({a: 1});
    await assert.rejects(document.create({a: 1}), {code: 6});
    await assert.rejects(db.doc('c/none').update({a: 1}), {code: 5});
    await document.update({a: 2}, {lastUpdateTime: writeTime});
    await assert.rejects(document.update({a: 3}, {lastUpdateTime: writeTime}), {code: 9});
    await assert.rejects(document.delete({lastUpdateTime: writeTime}), {code: 9});
  },

  async queriesFilterOrderAndPage(db) {
    const c = db.collection('c');
    for (let number = 0; number < 6; number++) {
      await c.doc(`d${number}`).set({number, even: number % 2 === 0, tags: [`t${number % 3}`]});
    }
    assert.deepEqual(await ids(c.where('number', '>=', 2).where('even', '==', true)), ['d2', 'd4']);
    assert.deepEqual(await ids(c.where('tags', 'array-contains', 't1')), ['d1', 'd4']);
    assert.deepEqual(await ids(c.where('tags', 'array-contains-any', ['t1', 't2']).limit(2)), ['d1', 'd2']);
    assert.deepEqual(await ids(c.where('number', 'in', [1, 5, 9])), ['d1', 'd5']);
    assert.deepEqual(await ids(c.where('number', 'not-in', [0, 1, 2])), ['d3', 'd4', 'd5']);
    assert.deepEqual(await ids(c.where('number', '!=', 3).offset(3)), ['d4', 'd5']);
    const either = Filter.or(Filter.where('number', '==', 0), Filter.where('tags', 'array-contains', 't2'));
    assert.deepEqual(await ids(c.where(either)), ['d0', 'd2', 'd5']);
    const down = c.orderBy('even').orderBy('number', 'desc');
    assert.deepEqual(await ids(down), ['d5', 'd3', 'd1', 'd4', 'd2', 'd0']);
    assert.deepEqual(await ids(down.startAfter(await c.doc('d1').get()).limit(2)), ['d4', 'd2']);
    assert.deepEqual(await ids(down.endBefore(true)), ['d5', 'd3', 'd1']);
    assert.deepEqual(await ids(c.orderBy('number').limitToLast(2)), ['d4', 'd5']);
    const shown = await c.select('number').limit(1).get();
    assert.deepEqual(shown.docs[0].data(), {number: 0});
    let streamed = 0;
    for await (const found of c.stream()) streamed += found.get('number');
    assert.equal(streamed, 15);
  },

  async collectionGroupsAreQueried(db) {
    await db.doc('c/a/sub/x').set({n: 1});
    await db.doc('c/b/sub/y').set({n: 2});
    await db.doc('c/b').set({n: 3});
    assert.deepEqual(await ids(db.collectionGroup('sub')), ['x', 'y']);
    assert.deepEqual(await ids(db.collectionGroup('sub').where('n', '>', 1)), ['y']);
    assert.deepEqual((await db.listCollections()).map(found => found.id), ['c']);
    assert.deepEqual((await db.collection('c').listDocuments()).map(found => found.id), ['a', 'b']);
  },

  async aggregationsCountAndSum(db) {
    const c = db.collection('c');
    for (const n of [1, 2, 4]) await c.doc(`d${n}`).set({n});
    assert.equal((await c.where('n', '>', 1).count().get()).data().count, 2);
    const {AggregateField} = require('@google-cloud/firestore');
    const both = c.aggregate({sum: AggregateField.sum('n'), mean: AggregateField.average('n')});
    assert.deepEqual((await both.get()).data(), {sum: 7, mean: 7 / 3});
  },

  async transactionsAreRepeatedAfterConflicts(db) {
    const document = db.doc('c/counter');
    await document.set({count: 0});
    const increase = () => db.runTransaction(async transaction => {
      const {count} = (await transaction.get(document)).data();
      transaction.update(document, {count: count + 1});
    }, {maxAttempts: 20});
    await Promise.all([increase(), increase(), increase()]);
    assert.equal((await document.get()).get('count'), 3);
  },

  async transactionsQueryAndRollBack(db) {
    const c = db.collection('c');
    await c.doc('d').set({a: 1});
    const failing = db.runTransaction(async transaction => {
      const found = await transaction.get(c.where('a', '==', 1));
      transaction.delete(found.docs[0].ref);
      throw new Error('wanted');
    });
    await assert.rejects(failing, /wanted/);
    const read = async transaction => (await transaction.get(c)).size;
    assert.equal(await db.runTransaction(read, {readOnly: true}), 1);
  },

  async readOnlyTransactionsReadThePast(db) {
    const document = db.doc('c/d');
    const {writeTime} = await document.set({a: 1});
    await document.set({a: 2});
    const read = async transaction => (await transaction.get(document)).get('a');
    assert.equal(await db.runTransaction(read, {readOnly: true, readTime: writeTime}), 1);
  },

  async batchesAndBulkWritersWriteAll(db) {
    const batch = db.batch();
    batch.set(db.doc('c/a'), {n: 1});
    batch.set(db.doc('c/b'), {n: 2});
    batch.delete(db.doc('c/a'));
    await batch.commit();
    const writer = db.bulkWriter();
    const results = [];
    for (let number = 0; number < 50; number++) results.push(writer.create(db.doc(`c/${number}`), {number}));
    const refused = assert.rejects(writer.create(db.doc('c/b'), {}), {code: 6});
    await writer.close();
    await refused;
    assert.equal((await Promise.all(results)).length, 50);
    assert.equal((await db.collection('c').count().get()).data().count, 51);
    await db.recursiveDelete(db.collection('c'));
    assert.equal((await db.collection('c').count().get()).data().count, 0);
  },

  async aDocumentIsListenedTo(db) {
    const document = db.doc('c/d');
    const snapshots = new Snapshots(document, found => found.data());
    assert.equal(await snapshots.next(), undefined);
    await document.set({a: 1});
    assert.deepEqual(await snapshots.next(), {a: 1});
    await document.delete();
    assert.equal(await snapshots.next(), undefined);
    snapshots.end();
  },

  async aQueryIsListenedTo(db) {
    const c = db.collection('c');
    await c.doc('old').set({a: 1});
    const show = found => found.docChanges().map(({type, doc}) => `${type} ${doc.id}`).join();
    const snapshots = new Snapshots(c.where('a', '>', 0).orderBy('a'), show);
    assert.equal(await snapshots.next(), 'added old');
    await c.doc('new').set({a: 2});
    assert.equal(await snapshots.next(), 'added new');
    await c.doc('old').update({a: 3});
    assert.equal(await snapshots.next(), 'modified old');
    await c.doc('new').update({a: 0});
    assert.equal(await snapshots.next(), 'removed new');
    await c.doc('old').delete();
    assert.equal(await snapshots.next(), 'removed old');
    snapshots.end();
  },
};

async function main() {
  let failed = 0;
  const names = Object.keys(points);
  for (const name of names) {
    const db = client(name);
    try {
      await points[name](db);
      console.log('PASS', name);
    } catch (error) {
      failed += 1;
      console.log('FAIL', name, error);
    }
    await db.terminate();
  }
  console.log(names.length - failed, 'of', names.length, 'points pass');
  process.exit(failed ? 1 : 0);
}

main();
