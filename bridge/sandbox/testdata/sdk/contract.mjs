// Drives the sandbox, whose base URL is the first argument, with the official
// Membrane SDK. Each answer is parsed with the schema that the SDK exports for
// it. Prints one JSON line for each check: {"name", "ok", "error"}.
import assert from 'node:assert/strict'
import {
  ActionApiResponse,
  ActionRunError,
  ActionRunLogRecordApiResponse,
  ActionRunResponse,
  ActRequest,
  BadRequestError,
  ConnectionApiResponse,
  DataSchema,
  ErrorDataSchema,
  FindActionRunLogsQuery,
  FindActionRunLogsResponse,
  MembraneClient,
  TenantSelfResponse,
} from '@membranehq/sdk'

const apiUri = process.argv[2]
const connectionKey = '8x8-sandbox'
const keys = [
  'send-sms', 'send-batch-sms', 'get-sms-status', 'get-account-balance', 'list-contacts', 'create-contact',
  'list-groups', 'add-contacts-to-group', 'request-sms-log-export', 'get-sms-log-export-result',
]

const pat = new MembraneClient({ apiUri, token: 'pat-sandbox' })
const minted = (tenantKey) =>
  new MembraneClient({ apiUri, workspaceKey: 'sandbox', workspaceSecret: 'sandbox-secret', tenantKey })
const acme = minted('acme')
const sms = (text, destination = '+12025550100') => ({ destination, text })

async function check(name, body) {
  try {
    await body()
    console.log(JSON.stringify({ name, ok: true }))
  } catch (error) {
    console.log(JSON.stringify({ name, ok: false, error: String(error?.stack ?? error).slice(0, 2000) }))
  }
}

// failure runs a call that must fail, and returns the SDK's error.
async function failure(call) {
  try {
    await call
  } catch (error) {
    ErrorDataSchema.parse(error.data)
    return error
  }
  assert.fail('the call should have failed')
}

const page = (item) => (answer) => {
  for (const element of answer.items) item.parse(element)
  return answer
}

// Actions.
let listed = []
await check('actions.find', async () => {
  listed = page(ActionApiResponse)(await pat.actions.find()).items
  assert.deepEqual(listed.map((a) => a.key).sort(), [...keys].sort())
})
for (const key of keys) {
  await check(`action ${key}: ready, with schemas that the SDK reads`, async () => {
    const action = ActionApiResponse.parse(await pat.action({ key }).get())
    assert.equal(action.state, 'READY')
    assert.match(action.id, /^[0-9a-f]{24}$/)
    DataSchema.parse(action.inputSchema)
    DataSchema.parse(action.outputSchema)
    assert.equal(action.inputSchema.type, 'object')
  })
}
await check('actions.findAll starts at cursor 0', async () => {
  assert.equal((await pat.actions.findAll()).length, keys.length)
})
await check('actions.find in pages', async () => {
  const first = await pat.actions.find({ limit: 6 })
  assert.equal(first.items.length, 6)
  assert.ok(first.cursor)
  const second = await pat.actions.find({ limit: 6, cursor: first.cursor })
  assert.equal(second.items.length, 4)
  assert.equal(second.cursor, undefined)
})
await check('actions.find by connection and intent', async () => {
  const { items } = await pat.actions.find({ connectionKey, intent: 'account balance', limit: 1 })
  assert.equal(items[0].key, 'get-account-balance')
})
await check('actions.find refuses a limit of 1001', async () => {
  assert.ok((await failure(pat.actions.find({ limit: 1001 }))) instanceof BadRequestError)
})
await check('action by id', async () => {
  assert.deepEqual(ActionApiResponse.parse(await pat.action(listed[0].id).get()), ActionApiResponse.parse(listed[0]))
})
await check('action by key and integration', async () => {
  assert.equal((await pat.action({ key: 'send-sms', integrationKey: '8x8' }).get()).key, 'send-sms')
})
await check('action that is not there', async () => {
  const error = await failure(pat.action('no-such-action').get())
  assert.equal(error.data.key, 'not_found')
})

// Connections.
let connection
await check('connections.find', async () => {
  const { items } = page(ConnectionApiResponse)(await pat.connections.find({ connected: true, limit: 5 }))
  assert.equal(items.length, 1)
  connection = items[0]
  assert.equal(connection.key, connectionKey)
  assert.match(connection.id, /^[0-9a-f]{24}$/)
})
await check('connections.find by a wrong integration', async () => {
  assert.deepEqual((await pat.connections.find({ integrationKey: 'other' })).items, [])
})
for (const [by, selector] of [['id', () => connection.id], ['key', () => connectionKey], ['integration key', () => '8x8']]) {
  await check(`connection by ${by}`, async () => {
    const one = ConnectionApiResponse.parse(await pat.connection(selector()).get())
    assert.equal(one.state, 'READY')
    assert.equal(one.connected, true)
    assert.equal(one.id, connection.id)
  })
}
await check('connection that is not there', async () => {
  assert.equal((await failure(pat.connection('nobody').get())).data.key, 'not_found')
})
await check('connection level: actions.list', async () => {
  const { items } = page(ActionApiResponse)(await pat.connection(connectionKey).actions.list())
  assert.equal(items.length, keys.length)
})
await check('connection level: action', async () => {
  const action = ActionApiResponse.parse(await pat.connection(connectionKey).action('send-sms').get())
  assert.equal(action.connectionId, connection.id)
})

// Who we are.
await check('self with a token that the SDK minted', async () => {
  const self = TenantSelfResponse.parse(await acme.self.get())
  assert.equal(self.internalId, 'acme')
  assert.equal(self.workspaceKey, 'sandbox')
})
await check('a wrong personal access token', async () => {
  const error = await failure(new MembraneClient({ apiUri, token: 'pat-wrong' }).self.get())
  assert.equal(error.data.key, 'not_authenticated')
})
await check('a wrong workspace secret', async () => {
  const wrong = new MembraneClient({ apiUri, workspaceKey: 'sandbox', workspaceSecret: 'wrong', tenantKey: 'acme' })
  assert.equal((await failure(wrong.self.get())).data.key, 'not_authenticated')
})

// Runs.
const runOf = (answer) => {
  ActionRunResponse.parse(answer)
  assert.match(answer.actionRunId, /^[0-9a-f]{24}$/)
  return answer
}
await check('run by id', async () => {
  const id = listed.find((a) => a.key === 'send-sms').id
  const { output } = runOf(await pat.action(id).run(sms('by id')))
  assert.equal(output.status.code, 'QUEUED')
})
await check('run by id on a connection', async () => {
  const id = listed.find((a) => a.key === 'send-sms').id
  runOf(await pat.action(id).run(sms('by id'), { connectionId: connection.id }))
})
await check('run by key', async () => {
  runOf(await pat.action('send-sms').run(sms('by key'), { connectionKey }))
})
await check('run by object selector', async () => {
  runOf(await pat.action({ key: 'send-sms', integrationKey: '8x8' }).run(sms('by selector'), { connectionId: connection.id }))
})
await check('run at connection level', async () => {
  const { output } = runOf(await pat.connection(connectionKey).action('send-sms').run(sms('at connection level')))
  assert.equal(output.destination, '12025550100')
  assert.equal(output.clientMessageId, null)
})
await check('run without an input', async () => {
  const { output } = runOf(await pat.action('get-account-balance').run())
  assert.equal(output.currency, 'USD')
})
await check('run at connection level without an input', async () => {
  runOf(await pat.connection(connectionKey).action('list-groups').run())
})
let sent
const request = {
  key: 'send-sms', connectionKey, input: { ...sms('by act'), clientMessageId: 'evt-1' },
  meta: { bridge: 'b1', eventId: 'evt-1', attempt: 1, nested: { list: [1, 'two', null] } },
}
await check('act', async () => {
  ActRequest.parse(request)
  sent = runOf(await acme.post('/act', request))
})
await check('act by id and integration', async () => {
  const id = listed.find((a) => a.key === 'list-groups').id
  runOf(await acme.post('/act', ActRequest.parse({ id, integrationKey: '8x8' })))
})
for (const [what, body] of Object.entries({
  'an unknown field': { key: 'send-sms', input: sms('x'), extra: 1 },
  'a null': { key: 'send-sms', input: sms('x'), connectionId: null },
  'no dispatch field': { input: sms('x') },
  'two dispatch fields': { key: 'send-sms', id: 'x', input: sms('x') },
  'a number for a key': { key: 5 },
  'a list for meta': { key: 'send-sms', input: sms('x'), meta: [] },
  'no body': undefined,
})) {
  await check(`act refuses ${what}`, async () => {
    const error = await failure(acme.post('/act', body))
    assert.ok(error instanceof BadRequestError, String(error))
    assert.equal(error.data.actionRunId, undefined)
  })
}
await check('act with an unknown action', async () => {
  assert.equal((await failure(acme.post('/act', { key: 'no-such-action' }))).data.key, 'not_found')
})
await check('act with an unknown connection', async () => {
  assert.equal((await failure(acme.post('/act', { ...request, connectionKey: 'nobody' }))).data.key, 'not_found')
})
await check('act whose input misses a required field', async () => {
  const error = await failure(acme.post('/act', { key: 'send-sms', input: { destination: '+12025550100' } }))
  assert.ok(error instanceof BadRequestError)
  assert.match(error.data.actionRunId, /^[0-9a-f]{24}$/)
})
let refusedRun
await check('a refusal of 8x8', async () => {
  const error = await failure(acme.post('/act', { ...request, input: sms('x', '12') }))
  assert.ok(error instanceof ActionRunError)
  assert.equal(error.data.causedByError.data.response.data.code, 1002)
  refusedRun = error.data.actionRunId
})
await check('a rate limit of 8x8', async () => {
  const error = await failure(acme.post('/act', { ...request, input: sms('x', '+12025550106') }))
  assert.equal(error.data.causedByError.key, 'rate_limit_exceeded')
})
await check('a batch that is taken in part', async () => {
  const { output } = runOf(await acme.post('/act', {
    key: 'send-batch-sms', connectionKey,
    input: { messages: [sms('yes'), sms('no', '+12025550108')], includeMessagesInResponse: true },
  }))
  assert.deepEqual([output.acceptedCount, output.rejectedCount, output.messages.length], [1, 1, 2])
})

// Run logs.
const logs = async (query) => {
  if (query) FindActionRunLogsQuery.parse(query)
  return FindActionRunLogsResponse.parse(await acme.get('/action-run-logs', query))
}
await check('run logs', async () => {
  const { items } = await logs({ connectionId: connection.id, from: new Date(Date.now() - 60_000).toISOString() })
  const mine = items.find((record) => record.id === sent.actionRunId)
  assert.deepEqual(mine.meta, request.meta)
  assert.deepEqual(mine.input, request.input)
  assert.deepEqual(mine.output, sent.output)
  assert.equal(mine.status, 'success')
})
await check('run logs of failures', async () => {
  const { items } = await logs({ status: 'error' })
  const mine = items.find((record) => record.id === refusedRun)
  ErrorDataSchema.parse(mine.error)
  assert.equal(mine.error.type, 'action_run')
  assert.ok(items.every((record) => record.status === 'error'))
})
await check('run logs in pages from cursor 0', async () => {
  const seen = []
  let cursor = '0'
  while (cursor) {
    const answer = await logs({ limit: 2, cursor })
    assert.ok(answer.items.length <= 2)
    seen.push(...answer.items.map((record) => record.id))
    cursor = answer.cursor
  }
  assert.equal(new Set(seen).size, seen.length)
  assert.equal(seen.length, (await logs({ limit: 1000 })).items.length)
})
await check('run logs until a time before them', async () => {
  assert.deepEqual((await logs({ to: '2020-01-01T00:00:00Z' })).items, [])
})
await check('run logs of another tenant', async () => {
  const { items } = await minted('other').get('/action-run-logs')
  assert.deepEqual(items, [])
})
await check('run log by id', async () => {
  const record = ActionRunLogRecordApiResponse.parse(await acme.get(`/action-run-logs/${sent.actionRunId}`))
  assert.deepEqual(record.meta, request.meta)
  assert.equal(record.action.key, 'send-sms')
})
await check('run log by id of another tenant', async () => {
  assert.equal((await failure(minted('other').get(`/action-run-logs/${sent.actionRunId}`))).data.key, 'not_found')
})
await check('run log details', async () => {
  const details = await acme.get(`/action-run-logs/${sent.actionRunId}/details`)
  ActionRunLogRecordApiResponse.parse(details)
  assert.equal(details.response.status, 200)
})
await check('run log with details', async () => {
  const details = await acme.get(`/action-run-logs/${sent.actionRunId}`, { details: true })
  assert.equal(details.request.method, 'post')
})
await check('run log that is not there', async () => {
  assert.equal((await failure(acme.get('/action-run-logs/000000000000000000000000'))).data.key, 'not_found')
})
