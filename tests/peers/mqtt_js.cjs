// mqtt.js over TCP and over WebSocket, in 3.1.1 and 5.0. `TCP` and `WS` are the broker's addresses; NODE_PATH leads to
// mqtt.js. Nothing waits for time: a promise ends with what it waits for, or with the test that takes too long.

const { test } = require("node:test");
const assert = require("node:assert/strict");
const { once } = require("node:events");
const mqtt = require("mqtt");

const VERSIONS = { "3.1.1": 4, "5.0": 5 };
const limit = { timeout: 60_000 };

for (const transport of ["TCP", "WS"]) {
  for (const [name, version] of Object.entries(VERSIONS)) {
    const run = `${transport.toLowerCase()}/${name}`;
    const check = (what, body) => test(`${what}, ${run}`, limit, body);

    const connect = async (t, options = {}) => {
      const client = mqtt.connect(process.env[transport], {
        protocolVersion: version,
        reconnectPeriod: 0,
        ...options,
      });
      t.after(() => client.endAsync(true));
      client.heard = [];
      client.on("message", (topic, payload, packet) => client.heard.push({ topic, text: payload.toString(), packet }));
      [client.connack] = await once(client, "connect");
      return client;
    };

    const until = async (client, count) => {
      while (client.heard.length < count) await once(client, "message");
      return client.heard;
    };

    for (const qos of [0, 1, 2]) {
      check(`messages arrive once and in order, QoS ${qos}`, async (t) => {
        const topic = `js/order/${run}/${qos}`;
        const [subscriber, publisher] = [await connect(t), await connect(t)];
        const [granted] = await subscriber.subscribeAsync(topic, { qos });
        assert.equal(granted.qos, qos);
        const sent = Array.from({ length: 100 }, (_, number) => `${number} ${"x".repeat(number * 50)}`);
        // As many at once as the broker takes: mqtt.js does not keep to its Receive Maximum by itself.
        const { receiveMaximum = 100 } = publisher.connack.properties ?? {};
        for (let start = 0; start < sent.length; start += receiveMaximum) {
          const some = sent.slice(start, start + receiveMaximum);
          await Promise.all(some.map((text) => publisher.publishAsync(topic, text, { qos })));
        }
        const heard = await until(subscriber, sent.length);
        assert.deepEqual(heard.map((message) => message.text), sent);
        assert.ok(heard.every(({ packet }) => packet.qos === qos && !packet.retain && !packet.dup));
      });

      check(`a retained message waits, and goes, QoS ${qos}`, async (t) => {
        const topic = `js/retained/${run}/${qos}`;
        // It gets them too, and by then they are stored.
        const publisher = await connect(t);
        await publisher.subscribeAsync(topic, { qos });
        await publisher.publishAsync(topic, "kept", { qos, retain: true });
        await until(publisher, 1);
        const early = await connect(t);
        await early.subscribeAsync(topic, { qos });
        const [kept] = await until(early, 1);
        assert.deepEqual([kept.text, kept.packet.retain, kept.packet.qos], ["kept", true, qos]);
        await publisher.publishAsync(topic, "", { qos, retain: true });
        await until(publisher, 2);
        const late = await connect(t);
        await late.subscribeAsync(topic, { qos });
        await publisher.publishAsync(topic, "new", { qos });
        assert.equal((await until(late, 1))[0].text, "new");
      });

      check(`a will follows a client that is cut off, QoS ${qos}`, async (t) => {
        const topic = `js/will/${run}/${qos}`;
        const heir = await connect(t);
        await heir.subscribeAsync(topic, { qos });
        const dying = await connect(t, { will: { topic, payload: Buffer.from("gone"), qos, retain: false } });
        dying.stream.destroy();
        const [will] = await until(heir, 1);
        assert.deepEqual([will.text, will.packet.qos], ["gone", qos]);
      });
    }

    check("a session keeps messages for a client that is away", async (t) => {
      const topic = `js/away/${run}`;
      const session = {
        clientId: `js-away-${transport}-${name}`,
        clean: false,
        ...(version === 5 && { properties: { sessionExpiryInterval: 3600 } }),
      };
      const first = await connect(t, session);
      assert.equal(first.connack.sessionPresent, false);
      await first.subscribeAsync(topic, { qos: 2 });
      await first.endAsync();
      const publisher = await connect(t);
      for (const qos of [1, 2]) await publisher.publishAsync(topic, `qos ${qos}`, { qos });
      const back = await connect(t, session);
      assert.equal(back.connack.sessionPresent, true);
      assert.deepEqual((await until(back, 2)).map((message) => message.text), ["qos 1", "qos 2"]);
    });

    check("a client comes back by itself, and has its subscriptions", async (t) => {
      const topic = `js/back/${run}`;
      const client = await connect(t, { reconnectPeriod: 1 });
      await client.subscribeAsync(topic, { qos: 1 });
      client.stream.destroy();
      await once(client, "connect");
      const publisher = await connect(t);
      // It subscribes again once it is connected: its own message is behind that.
      await client.publishAsync(topic, "own", { qos: 1 });
      await publisher.publishAsync(topic, "other", { qos: 1 });
      assert.deepEqual((await until(client, 2)).map((message) => message.text), ["own", "other"]);
    });

    if (version === 5) {
      check("properties go through", async (t) => {
        const topic = `js/properties/${run}`;
        const subscriber = await connect(t, { properties: { topicAliasMaximum: 10, requestResponseInformation: true } });
        await subscriber.subscribeAsync(topic, { qos: 1, properties: { subscriptionIdentifier: 7 } });
        const publisher = await connect(t, { autoAssignTopicAlias: true });
        const properties = {
          payloadFormatIndicator: true,
          messageExpiryInterval: 3600,
          contentType: "text/plain",
          responseTopic: "js/answers",
          correlationData: Buffer.from([0, 255]),
          userProperties: { unit: "°C", many: ["one", "two"] },
        };
        // The second one goes by its alias.
        for (const text of ["one", "two"]) await publisher.publishAsync(topic, text, { qos: 1, properties });
        for (const { packet, topic: on } of await until(subscriber, 2)) {
          assert.equal(on, topic);
          const { messageExpiryInterval: left, subscriptionIdentifier, topicAlias, ...rest } = packet.properties;
          const { messageExpiryInterval: sent, ...expected } = properties;
          assert.ok(left > 0 && left <= sent, `${left} of ${sent} s`);
          assert.equal(subscriptionIdentifier, 7);
          assert.deepEqual({ ...rest, userProperties: { ...rest.userProperties } }, expected);
        }
      });

      check("a client that is taken over hears why", async (t) => {
        const clientId = `js-taken-over-${transport}`;
        const first = await connect(t, { clientId });
        const told = once(first, "disconnect");
        await connect(t, { clientId });
        assert.equal((await told)[0].reasonCode, 0x8e);
      });

      check("no local, retain as published and retain handling are kept to", async (t) => {
        const topic = `js/options/${run}`;
        const [client, other] = [await connect(t), await connect(t)];
        await other.publishAsync(topic, "before", { qos: 1, retain: true });
        await client.subscribeAsync(topic, { qos: 1, nl: true, rap: true, rh: 2 });
        await client.publishAsync(topic, "own", { qos: 1, retain: true });
        await other.publishAsync(topic, "after", { qos: 1, retain: true });
        const [only] = await until(client, 1);
        assert.deepEqual([only.text, only.packet.retain], ["after", true]);
      });
    }
  }
}
