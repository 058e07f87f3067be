// Publishes JSON lines as events for Sluicegate. All it knows of Sluicegate is the JSON Schema.
//
//   node publish.js BROKER TOPIC SCHEMA KEY_FIELD < events.jsonl
//
// Prints one line for each event that is stored: its id and its partition. Exit code 1 when a line does not
// fit the schema (then nothing is published) or a record is not confirmed.

import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { Producer, compatibilityPartitioner, stringSerializers } from '@platformatic/kafka'
import { Ajv2020 } from 'ajv/dist/2020.js'

const SOURCE = '/example/node-publisher'
const TIMEOUT_MS = 30_000
const BATCH = 500

const [broker, topic, schemaFile, keyField] = process.argv.slice(2)
if (keyField === undefined) {
  console.error('usage: node publish.js BROKER TOPIC SCHEMA KEY_FIELD < events.jsonl')
  process.exit(2)
}

const schema = JSON.parse(readFileSync(schemaFile, 'utf8'))
const type = schema.$id.split(':').at(-1) // the schema is named by its ce_type
const fits = new Ajv2020().compile(schema)

// Says where a line is wrong and never what it holds: events are other people's words.
function fault(line) {
  let event
  try {
    event = JSON.parse(line)
  } catch {
    return 'not JSON'
  }
  if (fits(event)) return null
  const [error] = fits.errors
  return `${error.instancePath || 'the whole'}: ${error.keyword} ${error.params.missingProperty ?? ''}`.trim()
}

function message(line) {
  const event = JSON.parse(line)
  const value = JSON.stringify(event)
  return {
    topic,
    key: event[keyField],
    value,
    headers: {
      ce_specversion: '1.0',
      // The same event again is the same event, so it is not answered twice. An id of your own is better.
      ce_id: createHash('sha256').update(value).digest('hex').slice(0, 32),
      ce_source: SOURCE,
      ce_type: type,
      ce_time: new Date().toISOString(),
      'content-type': 'application/json'
    }
  }
}

const lines = readFileSync(0, 'utf8').split('\n').filter((line) => line.trim() !== '')
const faults = lines.map((line, index) => [index + 1, fault(line)]).filter(([, what]) => what !== null)
for (const [number, what] of faults) console.error(`line ${number}: ${what}`)
if (faults.length > 0) process.exit(1)

const producer = new Producer({
  clientId: 'example-node-publisher',
  bootstrapBrokers: [broker],
  serializers: stringSerializers,
  idempotent: true, // and with it acks from all in-sync replicas
  strict: true,
  timeout: TIMEOUT_MS,
  // Java's rule: (murmur2(key) & 0x7fffffff) mod partitions. The client's own default keeps the sign bit,
  // and so puts half of all keys elsewhere when the number of partitions is no power of two.
  partitioner: compatibilityPartitioner
})
try {
  const partitions = (await producer.metadata({ topics: [topic] })).topics.get(topic).partitionsCount
  for (let start = 0; start < lines.length; start += BATCH) {
    const messages = lines.slice(start, start + BATCH).map(message)
    await producer.send({ messages })
    for (const { headers, key } of messages) {
      const partition = compatibilityPartitioner({}, Buffer.from(key)) % partitions
      console.log(JSON.stringify({ id: headers.ce_id, key, partition }))
    }
  }
} catch (error) {
  console.error(`not confirmed: ${error.message}`)
  process.exitCode = 1
} finally {
  await producer.close()
}
