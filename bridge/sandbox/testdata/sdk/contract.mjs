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
  AgentSession,
  AgentSessionInputSchema,
  BadRequestError,
  ConnectionApiResponse,
  ConnectionOperationRunResponse,
  ConnectionRequest,
  ConnectionTestResponse,
  CreateActionRequest,
  CreateAgentSession,
  CreateConnectionRequestPayload,
  createPaginationResponseSchema,
  DataSchema,
  ErrorDataSchema,
  FindActionRunLogsQuery,
  FindActionRunLogsResponse,
  FindConnectionsQuery,
  FindIntegrationsQuery,
  GenerateWorkspaceAccessTokenRequest,
  GenerateWorkspaceAccessTokenResponse,
  IntegrationApiResponse,
  ListExternalAppsQuery,
  MembraneClient,
  OAuthTokenResponse,
  TenantSelfResponse,
  UpdateActionRequest,
  WorkspaceElementSearchQuery,
  WorkspaceElementSearchResult,
} from '@membranehq/sdk'
import { createHash, createHmac, randomBytes } from 'node:crypto'

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

// Connections that change. Each tenant has its own.
const owner = minted('connections')
const control = async (path, body) => {
  const answer = await fetch(`${apiUri}/_sandbox/${path}`, {
    method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body),
  })
  assert.ok(answer.ok, await answer.text())
}
const press = async (url, decision, hidden) => {
  const answer = await fetch(url, {
    method: 'POST', redirect: 'manual', headers: { 'content-type': 'application/x-www-form-urlencoded' },
    body: new URLSearchParams({ ...hidden, decision }),
  })
  return answer
}
const decide = (request, decision) =>
  press(request.url.split('?')[0], decision, { connectionRequestId: request.requestId })
const ask = async (body) =>
  ConnectionRequest.parse(await owner.post('/connection-requests', CreateConnectionRequestPayload.parse(body)))
let second
await check('connection request: pending, with a page to open', async () => {
  const request = await ask({ connectorKey: '8x8', connectionKey: 'second', name: 'Second', allowMultipleConnections: true })
  assert.equal(request.status, 'pending')
  const page = await fetch(request.url)
  assert.equal(page.status, 200)
  assert.match(await page.text(), /Connect 8x8\?/)
  assert.equal((await decide(request, 'approve')).status, 200)
  const done = ConnectionRequest.parse(await owner.get(`/connection-requests/${request.requestId}`))
  assert.equal(done.status, 'success')
  second = done.resultConnectionId
})
await check('a new connection is BUILDING, and a long poll waits until it is not', async () => {
  const waited = ConnectionApiResponse.parse(await owner.get(`/connections/${second}`, { wait: true, timeout: 20 }))
  assert.equal(waited.state, 'READY')
  assert.equal(waited.key, 'second')
})
await check('a connection request that is cancelled', async () => {
  const request = await ask({ connectorKey: '8x8' })
  await decide(request, 'cancel')
  assert.equal(ConnectionRequest.parse(await owner.get(`/connection-requests/${request.requestId}`)).status, 'cancelled')
  assert.equal((await decide(request, 'approve')).status, 409)
})
await check('a connection request that 8x8 refuses', async () => {
  const request = await ask({ integrationKey: '8x8' })
  await decide(request, 'fail')
  const done = ConnectionRequest.parse(await owner.get(`/connection-requests/${request.requestId}`))
  assert.equal(done.status, 'error')
  ErrorDataSchema.parse(done.resultError)
})
await check('a connection request that names nothing', async () => {
  assert.ok((await failure(owner.post('/connection-requests', {}))) instanceof BadRequestError)
})
await check('a connection request of another tenant', async () => {
  const request = await ask({ connectorKey: '8x8' })
  assert.equal((await failure(minted('other').get(`/connection-requests/${request.requestId}`))).data.key, 'not_found')
})
await check('connection.patch', async () => {
  const changed = ConnectionApiResponse.parse(await owner.connection(second).patch({ name: 'Renamed' }))
  assert.equal(changed.name, 'Renamed')
})
await check('a key that is taken', async () => {
  assert.equal((await failure(owner.connection(second).patch({ key: connectionKey }))).data.key, 'already_exists')
})
await check('connection test', async () => {
  assert.equal(ConnectionTestResponse.parse(await owner.post(`/connections/${second}/test`)).success, true)
})
await check('connection.refreshCredentials', async () => {
  assert.equal(await owner.connection(second).refreshCredentials(), '')
})
await check('connections/ensure finds what there is', async () => {
  const found = ConnectionApiResponse.parse(await owner.post('/connections/ensure', { appUrl: 'https://www.8x8.com' }))
  assert.equal(found.key, connectionKey)
})
await check('connections/ensure refuses an address that is none', async () => {
  assert.ok((await failure(owner.post('/connections/ensure', { appUrl: 'nowhere' }))) instanceof BadRequestError)
})
await check('connections.create, then archive', async () => {
  const made = ConnectionApiResponse.parse(await owner.connections.create({ connectorKey: '8x8', key: 'third' }))
  assert.equal(made.state, 'BUILDING')
  await owner.connection(made.id).archive()
  assert.ok(!(await owner.connections.find()).items.some((c) => c.id === made.id))
  assert.ok((await owner.connections.find({ includeArchived: true })).items.some((c) => c.id === made.id))
})
await check('a connection that is disconnected asks for a person, and runs nothing', async () => {
  await owner.post(`/connections/${second}/disconnect`)
  const lost = ConnectionApiResponse.parse(await owner.connection(second).get())
  assert.deepEqual([lost.state, lost.disconnected, lost.clientAction.type], ['CLIENT_ACTION_REQUIRED', true, 'connect'])
  const error = await failure(owner.post('/act', { key: 'list-groups', connectionId: second }))
  assert.equal(error.data.causedByError.key, 'connection_is_defunct')
})
await check('connected again it is the same connection', async () => {
  const request = await ask({ connectionId: second })
  await decide(request, 'approve')
  const done = ConnectionRequest.parse(await owner.get(`/connection-requests/${request.requestId}`))
  assert.equal(done.resultConnectionId, second)
  assert.equal(ConnectionApiResponse.parse(await owner.connection(second).get()).state, 'READY')
})
for (const state of ['CONFIGURATION_ERROR', 'SETUP_FAILED']) {
  await check(`a connection in ${state} says why`, async () => {
    await control('connections/second', { tenant: 'connections', state, message: 'because' })
    const broken = ConnectionApiResponse.parse(await owner.connection(second).get())
    assert.equal(broken.state, state)
    assert.equal(broken.errors[0].message, 'because')
  })
}

// Actions that are built.
const builder = minted('builder')
let made
await check('actions.create by intent is BUILDING', async () => {
  made = ActionApiResponse.parse(await builder.actions.create({ intent: 'cancel a scheduled message', connectionId: connection.id }))
  assert.equal(made.state, 'BUILDING')
})
await check('a long poll waits until it is READY', async () => {
  const ready = ActionApiResponse.parse(await builder.get(`/actions/${made.id}`, { wait: true, timeout: 20 }))
  assert.equal(ready.state, 'READY')
  assert.equal(ready.connectionId, connection.id)
})
await check('a built action runs', async () => {
  const { output } = runOf(await builder.post('/act', { id: made.id, input: { umid: 'x' } }))
  assert.deepEqual(output, { ok: true })
})
await check('a built action is found by intent', async () => {
  const { items } = page(ActionApiResponse)(await builder.actions.find({ connectionId: connection.id, intent: 'cancel scheduled', limit: 1 }))
  assert.equal(items[0].id, made.id)
})
await check('a built action is its tenant\'s own', async () => {
  assert.equal((await failure(minted('other').action(made.id).get())).data.key, 'not_found')
})
for (const state of ['SETUP_FAILED', 'CONFIGURATION_ERROR', 'CLIENT_ACTION_REQUIRED']) {
  await check(`a build that ends in ${state}`, async () => {
    await control('builds', { state, message: 'because', delayMs: 0 })
    const started = await builder.actions.create({ intent: `ends ${state}`, connectionId: connection.id })
    const ended = ActionApiResponse.parse(await builder.get(`/actions/${started.id}`, { wait: true, timeout: 20 }))
    assert.equal(ended.state, state)
    assert.equal(ended.errors[0].message, 'because')
    ErrorDataSchema.parse(ended.errors[0])
    assert.equal((await failure(builder.post('/act', { id: ended.id }))).data.actionRunId.length, 24)
  })
}
await check('an action that is still BUILDING does not run', async () => {
  await control('builds', { state: 'READY', delayMs: 60000 })
  const started = await builder.actions.create({ intent: 'takes long', connectionId: connection.id })
  await failure(builder.post('/act', { id: started.id }))
})
await check('actions.create by its specification', async () => {
  const one = ActionApiResponse.parse(await builder.actions.create({
    key: 'read-balance', name: 'Read balance', type: 'api-request-to-external-app', connectionId: connection.id,
    config: { request: { method: 'GET', path: '/api/v1/accounts/acme/balance' } },
    inputSchema: { type: 'object', properties: {} },
  }))
  assert.equal(one.state, 'READY')
  assert.equal(runOf(await builder.action('read-balance').run({})).output.currency, 'USD')
})
await check('an action of no one connection needs a management token', async () => {
  assert.equal((await failure(builder.actions.create({ intent: 'anything' }))).data.key, 'access_denied')
})
await check('action.patch', async () => {
  const changed = ActionApiResponse.parse(await builder.action(made.id).patch(UpdateActionRequest.parse({
    name: 'Cancel', inputSchema: { type: 'object', required: ['umid'], properties: { umid: { type: 'string' } } }, meta: { by: 'us' },
  })))
  assert.deepEqual([changed.name, changed.key, changed.meta.by], ['Cancel', made.key, 'us'])
  assert.match((await failure(builder.post('/act', { id: made.id, input: {} }))).data.message, /umid/)
})
await check('action.patch with an intent builds it anew', async () => {
  assert.equal(ActionApiResponse.parse(await builder.action(made.id).patch({ intent: 'cancel a batch' })).state, 'BUILDING')
  const ready = ActionApiResponse.parse(await builder.get(`/actions/${made.id}`, { wait: true, timeout: 20 }))
  assert.deepEqual([ready.state, ready.id], ['READY', made.id])
})
await check('action.put puts all of it in the place of what there was', async () => {
  const put = ActionApiResponse.parse(await builder.action(made.id).put({
    name: 'Balance', type: 'api-request-to-external-app', config: { request: { method: 'GET', path: '/api/v1/accounts/acme/balance' } },
    inputSchema: { type: 'object', properties: {} },
  }))
  assert.deepEqual([put.name, put.meta, put.config.request.method], ['Balance', undefined, 'GET'])
  assert.equal(runOf(await builder.action(made.id).run()).output.currency, 'USD')
})
await check('a key that another action has', async () => {
  assert.equal((await failure(builder.action(made.id).patch({ key: 'send-sms' }))).data.key, 'already_exists')
})
await check('action.reset', async () => {
  assert.equal(ActionApiResponse.parse(await builder.action(made.id).reset()).id, made.id)
})
await check('an action of the catalog cannot be changed', async () => {
  for (const call of [(a) => a.patch({ name: 'x' }), (a) => a.put({ name: 'x' }), (a) => a.archive()]) {
    assert.equal((await failure(call(builder.action('send-sms')))).data.key, 'access_denied')
  }
})
await check('connection level: get, patch, put, reset and setup of an action', async () => {
  const here = builder.connection(connection.id).action(made.id)
  assert.equal(ActionApiResponse.parse(await here.patch({ description: 'here' })).description, 'here')
  for (const answer of [await here.get(), await here.create(), await here.reset(), await here.setup()]) {
    assert.equal(ActionApiResponse.parse(answer).connectionId, connection.id)
  }
})
await check('an action of another connection is not found at this one', async () => {
  const other = await builder.connections.create({ connectorKey: '8x8', key: 'elsewhere' })
  assert.equal((await failure(builder.connection(other.id).action(made.id).patch({ name: 'x' }))).data.key, 'not_found')
})
await check('integration level: actions', async () => {
  const { items } = page(ActionApiResponse)(await pat.integration('8x8').actions.list())
  assert.ok(items.length >= keys.length)
  assert.equal(ActionApiResponse.parse(await pat.integration('8x8').action('send-sms').get()).key, 'send-sms')
})
await check('integration level: create, patch, put, reset and archive with a management token', async () => {
  const all = pat.integration('8x8').actions
  const one = ActionApiResponse.parse(await all.create(CreateActionRequest.parse({
    key: 'everywhere', name: 'Everywhere', type: 'api-request-to-external-app',
    config: { request: { method: 'GET', path: '/api/v1/accounts/acme/balance' } },
  })))
  assert.equal(one.connectionId, undefined)
  const it = pat.integration('8x8').action('everywhere')
  for (const answer of [await it.patch({ name: 'All' }), await it.reset(), await it.put({ name: 'All' })]) {
    assert.equal(ActionApiResponse.parse(answer).name, 'All')
  }
  runOf(await pat.connection(connectionKey).action('everywhere').run())
  await it.archive()
  assert.equal((await failure(it.get())).data.key, 'not_found')
})
await check('integration level: a tenant may not create', async () => {
  assert.equal((await failure(builder.integration('8x8').actions.create({ intent: 'x' }))).data.key, 'access_denied')
})
await check('clone, dependencies and export of an action', async () => {
  const copy = ActionApiResponse.parse(await builder.post(`/actions/${made.id}/clone`))
  assert.notEqual(copy.id, made.id)
  assert.notEqual(copy.key, made.key)
  assert.deepEqual(await builder.get(`/actions/${copy.id}/dependencies`), [])
  assert.equal((await builder.get(`/actions/${copy.id}/export`)).key, copy.key)
})
await check('action.archive: no list has it, and nothing runs', async () => {
  await builder.action(made.id).archive()
  assert.ok(ActionApiResponse.parse(await builder.action(made.id).get()).archivedAt)
  assert.equal((await failure(builder.action(made.key).get())).data.key, 'not_found')
  assert.equal((await failure(builder.post('/act', { id: made.id }))).data.key, 'not_found')
  assert.ok(!(await builder.actions.findAll()).some((a) => a.id === made.id))
  assert.ok((await builder.actions.findAll({ includeArchived: true })).some((a) => a.id === made.id))
})
await check('action.restore', async () => {
  assert.equal(ActionApiResponse.parse(await builder.action(made.id).restore()).archivedAt, undefined)
  assert.equal(ActionApiResponse.parse(await builder.action({ key: made.key }).get()).id, made.id)
})
await check('action by object selector: patch and archive', async () => {
  const it = builder.action({ key: made.key, integrationKey: '8x8' })
  assert.equal(ActionApiResponse.parse(await it.patch({ name: 'By key' })).name, 'By key')
  await it.archive()
  assert.equal((await failure(it.get())).data.key, 'not_found')
})

// The agent.
const session = async (body) => AgentSession.parse(await builder.post('/agent/sessions', CreateAgentSession.parse(body)))
const waited = async (id) => AgentSession.parse(await builder.get(`/agent/sessions/${id}`, { wait: true, timeout: 20 }))
let talk
await check('agent session: busy, and a long poll waits until it is idle', async () => {
  talk = await session({ prompt: 'look around', agentName: 'membrane', promptAttachments: [{ title: 't', data: 1 }] })
  assert.equal(talk.state, 'busy')
  assert.equal(AgentSession.parse(await builder.get(`/agent/sessions/${talk.id}`)).id, talk.id)
  const done = await waited(talk.id)
  assert.deepEqual([done.state, done.status], ['idle', 'completed'])
})
await check('agent session: a message makes it busy again', async () => {
  const again = AgentSession.parse(await builder.post(`/agent/sessions/${talk.id}/message`, AgentSessionInputSchema.parse({ input: 'and now?' })))
  assert.deepEqual([again.state, again.status], ['busy', 'running'])
  assert.equal((await waited(talk.id)).state, 'idle')
})
await check('agent session: patch', async () => {
  const patched = AgentSession.parse(await builder.patch(`/agent/sessions/${talk.id}`, { title: 'Talk', summary: 'short', output: { a: 1 } }))
  assert.deepEqual([patched.title, patched.summary, patched.output.a, patched.status], ['Talk', 'short', 1, 'completed'])
})
await check('agent session: interrupt', async () => {
  await control('builds', { state: 'READY', delayMs: 60000 })
  const long = await session({ prompt: 'take long' })
  assert.deepEqual(await builder.post(`/agent/sessions/${long.id}/interrupt`), { interrupted: true })
  assert.deepEqual(await builder.post(`/agent/sessions/${long.id}/interrupt`), { interrupted: false })
  assert.equal((await waited(long.id)).state, 'idle')
})
await check('agent session: stop, and no message after it', async () => {
  await control('builds', { state: 'READY', delayMs: 60000 })
  const long = await session({ prompt: 'take long' })
  const stopped = AgentSession.parse(await builder.patch(`/agent/sessions/${long.id}/stop`))
  assert.deepEqual([stopped.state, stopped.status, stopped.hasWorker], ['idle', 'cancelled', false])
  assert.ok((await failure(builder.post(`/agent/sessions/${long.id}/message`, { input: 'x' }))) instanceof BadRequestError)
})
await check('agent session: one that fails says why', async () => {
  await control('builds', { state: 'SETUP_FAILED', message: 'because', delayMs: 0 })
  const failed = await waited((await session({ prompt: 'fail' })).id)
  assert.deepEqual([failed.status, failed.error.message], ['failed', 'because'])
})
await check('agent session: about a connection, it builds an action', async () => {
  const about = await session({ prompt: `delete a contact over ${connection.id}`, agentName: 'action-building' })
  const done = await waited(about.id)
  assert.equal(done.status, 'completed')
  const built = ActionApiResponse.parse(await builder.action(done.output.actionId).get())
  assert.deepEqual([built.state, built.agentSessionId, built.connectionId], ['READY', about.id, connection.id])
})
await check('agent sessions: list, filters and pages', async () => {
  const list = async (q) => createPaginationResponseSchema(AgentSession).parse(await builder.get('/agent/sessions', q))
  const all = (await list()).items
  assert.ok(all.length >= 5)
  assert.ok((await list({ status: 'cancelled' })).items.every((s) => s.status === 'cancelled'))
  const first = await list({ limit: 2, cursor: '0' })
  assert.equal((await list({ limit: 2, cursor: first.cursor })).items[0].id, all[2].id)
  assert.deepEqual((await list({ endDatetime: '2020-01-01T00:00:00Z' })).items, [])
})
await check('agent session of another tenant', async () => {
  assert.equal((await failure(minted('other').get(`/agent/sessions/${talk.id}`))).data.key, 'not_found')
})

// Search and the catalog.
const found = createPaginationResponseSchema(WorkspaceElementSearchResult)
const search = async (q) => found.parse(await pat.get('/search', WorkspaceElementSearchQuery.parse(q)))
await check('search: the nearest first', async () => {
  const { items } = await search({ q: 'send a text message' })
  assert.deepEqual([items[0].elementType, items[0].element.key], ['action', 'send-sms'])
  ActionApiResponse.parse(items[0].element)
})
for (const [elementType, schema] of [['connection', ConnectionApiResponse], ['integration', IntegrationApiResponse], ['connector'], ['app']]) {
  await check(`search for a ${elementType}`, async () => {
    const { items } = await search({ q: '8x8', elementType })
    assert.ok(items.length > 0 && items.every((i) => i.elementType === elementType))
    schema?.parse(items[0].element)
  })
}
await check('search in pages from cursor 0', async () => {
  const first = await search({ q: 'contacts sms list', limit: 2, cursor: '0' })
  assert.equal(first.items.length, 2)
  const second = await search({ q: 'contacts sms list', limit: 2, cursor: first.cursor })
  assert.notDeepEqual(first.items, second.items)
})
await check('semantic search answers with the array', async () => {
  const items = await pat.get('/semantic-search', { q: 'account balance', elementType: 'action', limit: 3 })
  assert.ok(Array.isArray(items) && items.length <= 3)
  for (const item of items) WorkspaceElementSearchResult.parse(item)
  assert.equal(items[0].element.key, 'get-account-balance')
})
for (const [what, q] of Object.entries({
  'no words': {}, 'too many': { q: 'x'.repeat(201) }, 'a limit of 101': { q: 'x', limit: 101 }, 'a capital': { q: 'x', elementType: 'Connector' },
})) {
  await check(`search refuses ${what}`, async () => {
    assert.ok(!WorkspaceElementSearchQuery.safeParse(q).success)
    for (const path of ['/search', '/semantic-search']) assert.ok((await failure(pat.get(path, q))) instanceof BadRequestError)
  })
}
await check('integrations', async () => {
  const { items } = page(IntegrationApiResponse)(await pat.integrations.find(FindIntegrationsQuery.parse({ search: '8x8', connectors: 1 })))
  assert.deepEqual([items.length, items[0].key, items[0].connection.key], [1, '8x8', connectionKey])
  assert.deepEqual(await pat.integrations.findAll({ search: 'zzz' }), [])
  assert.equal(IntegrationApiResponse.parse(await pat.integration('8x8').get()).id, items[0].id)
  assert.equal((await failure(pat.integration('other').get())).data.key, 'not_found')
})
await check('parameters of an integration need a management token', async () => {
  IntegrationApiResponse.parse(await pat.patch('/integrations/8x8/parameters', { a: 1 }))
  assert.equal((await failure(acme.patch('/integrations/8x8/parameters', { a: 1 }))).data.key, 'access_denied')
})
await check('external apps', async () => {
  const list = async (q) => (await pat.get('/external-apps', ListExternalAppsQuery.parse(q))).items
  assert.equal((await list({ search: '8x8', category: 'communication', isConnected: true })).length, 1)
  assert.deepEqual(await list({ isConnected: false }), [])
  assert.equal((await pat.get('/external-apps/8x8')).key, '8x8')
})
await check('connection options', async () => {
  const [option] = await pat.post('/connection-options', { integrationKey: '8x8' })
  assert.deepEqual([option.key, option.type], ['api-key', 'client-credentials'])
  DataSchema.parse(option.inputSchema)
  assert.equal((await failure(pat.post('/connection-options', { connectionId: 'nobody' }))).data.key, 'not_found')
})

// Tokens and tenants.
const accessToken = async (client, body) =>
  GenerateWorkspaceAccessTokenResponse.parse(await client.post('/org-workspaces/sandbox/access-token', GenerateWorkspaceAccessTokenRequest.parse(body))).token
await check('a token of a tenant, from a management token', async () => {
  const token = await accessToken(pat, { tenantKey: 'derived', name: 'Derived', fields: { plan: 'gold' } })
  const self = TenantSelfResponse.parse(await new MembraneClient({ apiUri, token }).self.get())
  assert.deepEqual([self.internalId, self.name, self.fields.plan], ['derived', 'Derived', 'gold'])
  assert.equal((await failure(accessToken(new MembraneClient({ apiUri, token }), {}))).data.key, 'access_denied')
})
await check('a management token, from a management token', async () => {
  const token = await accessToken(pat, { isAdmin: true })
  await accessToken(new MembraneClient({ apiUri, token }), { tenantKey: 'x' })
})
const jwt = (claims, alg = 'HS256', secret = 'sandbox-secret') => {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url')
  const head = `${part({ alg, typ: 'JWT' })}.${part(claims)}`
  return `${head}.${createHmac(alg.replace('HS', 'sha'), secret).update(head).digest('base64url')}`
}
const who = (token) => new MembraneClient({ apiUri, token }).self.get()
const soon = Math.floor(Date.now() / 1000) + 600
for (const alg of ['HS256', 'HS512']) {
  for (const [dialect, claims] of Object.entries({
    SDK: { iss: 'sandbox', id: 'both', exp: soon }, docs: { workspaceKey: 'sandbox', tenantKey: 'both', exp: soon },
    mixed: { workspaceKey: 'sandbox', id: 'both', name: 'B', fields: {}, exp: soon },
  })) {
    await check(`a JWT in the ${dialect} dialect, ${alg}`, async () => {
      assert.equal(TenantSelfResponse.parse(await who(jwt(claims, alg))).internalId, 'both')
    })
  }
}
for (const [what, token] of Object.entries({
  'that has expired': jwt({ iss: 'sandbox', id: 'x', exp: soon - 1200 }), 'of another workspace': jwt({ iss: 'else', id: 'x', exp: soon }),
  'of no workspace': jwt({ id: 'x', exp: soon }), 'with HS384': jwt({ iss: 'sandbox', exp: soon }, 'HS384'),
  'signed with another secret': jwt({ iss: 'sandbox', exp: soon }, 'HS256', 'else'),
})) {
  await check(`a JWT ${what}`, async () => {
    assert.equal((await failure(who(token))).data.key, 'not_authenticated')
  })
}
await check('self.patch', async () => {
  const patched = TenantSelfResponse.parse(await minted('patched').self.patch({ name: 'Patched', fields: { a: 1 }, credentials: { k: 's' } }))
  assert.deepEqual([patched.name, patched.fields.a, patched.credentials], ['Patched', 1, undefined])
})

// Connections, once more.
await check('connection.put', async () => {
  const put = ConnectionApiResponse.parse(await owner.connection(second).put({ name: 'Put', key: 'put', meta: { a: 1 } }))
  assert.deepEqual([put.name, put.key, put.meta.a], ['Put', 'put', 1])
  assert.equal(ConnectionApiResponse.parse(await owner.connection(second).patch({ key: null })).key, undefined)
})
await check('connection: archive, restore', async () => {
  await owner.connection(second).archive()
  assert.equal(ConnectionApiResponse.parse(await owner.post(`/connections/${second}/restore`)).archivedAt, undefined)
})
await check('connection: refresh, logs and reconnect', async () => {
  assert.equal(ConnectionApiResponse.parse(await owner.post(`/connections/${second}/refresh`)).id, second)
  assert.deepEqual(await owner.get(`/connections/${second}/logs`), [])
  await owner.post(`/connections/${second}/disconnect`)
  assert.equal(ConnectionApiResponse.parse(await owner.post(`/connections/${second}/reconnect`)).clientAction.type, 'connect')
})
await check('connections.find in pages from cursor 0', async () => {
  const first = FindConnectionsQuery.parse({ limit: 1, cursor: '0' }) && (await owner.connections.find({ limit: 1, cursor: '0' }))
  assert.equal(first.items.length, 1)
  page(ConnectionApiResponse)(await owner.connections.find({ limit: 1, cursor: first.cursor }))
})

// Run logs: late, in no list, none at all, and listed twice.
const quiet = minted('logs')
const runs = async () => FindActionRunLogsResponse.parse(await quiet.get('/action-run-logs')).items.map((r) => r.id)
const logged = async (mode) => {
  await control('run-logs', { mode })
  const { actionRunId } = runOf(await quiet.post('/act', { key: 'list-groups' }))
  await control('run-logs', { mode: 'on' })
  return actionRunId
}
await check('run logs that are hidden', async () => {
  const id = await logged('hidden')
  assert.ok(!(await runs()).includes(id))
  ActionRunLogRecordApiResponse.parse(await quiet.get(`/action-run-logs/${id}`))
})
for (const mode of ['off', 'late']) {
  await check(`run logs that are ${mode}`, async () => {
    const id = await logged(mode)
    assert.ok(!(await runs()).includes(id))
    assert.equal((await failure(quiet.get(`/action-run-logs/${id}`))).data.key, 'not_found')
  })
}
await check('a run log that is listed twice', async () => {
  await control('faults', { kind: 'duplicate-log', match: 'twice' })
  const { actionRunId } = runOf(await quiet.post('/act', { key: 'list-groups', meta: { eventId: 'twice' } }))
  assert.equal((await runs()).filter((id) => id === actionRunId).length, 2)
})

// What the SDK calls operations and instances.
await check('connection.operation', async () => {
  const spec = await pat.connection(connectionKey).operation('get-account-balance').get()
  DataSchema.parse(spec.inputSchema)
  const { output } = ConnectionOperationRunResponse.parse(await pat.connection(connectionKey).operation('get-account-balance').run({ input: {} }))
  assert.equal(output.currency, 'USD')
  const error = await failure(pat.connection(connectionKey).operation('send-sms').run({ input: sms('x', '12') }))
  assert.equal(error.data.causedByError.data.response.data.code, 1002)
  assert.equal((await failure(pat.connection(connectionKey).operation('nothing').get())).data.key, 'not_found')
})
await check('actionInstance.run', async () => {
  const id = listed.find((a) => a.key === 'send-sms').id
  assert.equal(runOf(await pat.actionInstance(id).run(sms('by instance'))).output.status.code, 'QUEUED')
})

// More of 8x8's API, through the proxy.
const vendor = builder.connection(connectionKey).proxy
const sub = '/api/v1/subaccounts/acme_hq/messages'
await check('proxy: a scheduled message is cancelled', async () => {
  const { umid } = await vendor.post(sub, { ...sms('later'), scheduled: new Date(Date.now() + 3600_000).toISOString() })
  assert.deepEqual(await vendor.delete(`${sub}/${umid}`), { cancelledCount: 1 })
  assert.deepEqual(await vendor.delete(`${sub}/${umid}`), { cancelledCount: 0 })
})
await check('proxy: an export is cancelled', async () => {
  const { jobId } = await vendor.post(`${sub}/exports`, {})
  assert.equal(await vendor.delete(`${sub}/exports/${jobId}`), '')
  assert.deepEqual(await vendor.get(`${sub}/exports/${jobId}`), { status: 'cancelled' })
})
await check('proxy: a group is made, once', async () => {
  assert.equal((await vendor.post('/api/v1/accounts/acme/groups', { name: 'gold' })).contacts, 0)
  await assert.rejects(vendor.post('/api/v1/accounts/acme/groups', { name: 'gold' }), (e) => e.response.data.code === 5003)
})
await check('proxy: a sub-account of somebody else', async () => {
  await assert.rejects(vendor.post('/api/v1/subaccounts/foreign_hq/messages', sms('x')), (e) => e.response.data.code === 1001)
})
await check('connection.request', async () => {
  assert.equal((await builder.connection(connection.id).request(sub, sms('by request'))).status.code, 'QUEUED')
})

// The proxy.
await check('proxy.get', async () => {
  assert.equal((await builder.connection(connection.id).proxy.get('/api/v1/accounts/acme/balance')).currency, 'USD')
})
await check('proxy.get with a query', async () => {
  const contacts = await builder.connection(connection.id).proxy.get('/api/v1/accounts/acme/contacts?limit=5&offset=0')
  assert.ok(Array.isArray(contacts.content ?? contacts.items ?? contacts.contacts ?? Object.values(contacts).find(Array.isArray)))
})
await check('proxy.post', async () => {
  const sent = await builder.connection(connection.id).proxy.post('/api/v1/subaccounts/acme_hq/messages', sms('through the proxy'))
  assert.equal(sent.status.code, 'QUEUED')
})
await check('proxy: an error of 8x8 is not in Membrane\'s envelope', async () => {
  const answer = await fetch(`${apiUri}/connections/${connection.id}/proxy/api/v1/subaccounts/acme_hq/messages`, {
    method: 'POST', headers: { authorization: 'Bearer pat-sandbox', 'content-type': 'application/json' }, body: JSON.stringify(sms('x', '12')),
  })
  const body = await answer.json()
  assert.deepEqual([answer.status, body.code, body.type], [400, 1002, undefined])
})
await check('proxy over a connection that is not there', async () => {
  assert.equal((await failure(builder.connection('nobody').proxy.get('/x'))).data.key, 'not_found')
})

// OAuth.
const form = async (path, body) => {
  const answer = await fetch(apiUri + path, {
    method: 'POST', redirect: 'manual', headers: { 'content-type': 'application/x-www-form-urlencoded' }, body: new URLSearchParams(body),
  })
  const text = await answer.text()
  return { status: answer.status, to: answer.headers.get('location'), body: text.startsWith('{') ? JSON.parse(text) : text }
}
const redirect_uri = 'http://127.0.0.1:9/callback'
const verifier = randomBytes(32).toString('base64url')
const challenge = createHash('sha256').update(verifier).digest('base64url')
let metadata, client_id, tokens
await check('OAuth metadata', async () => {
  metadata = await (await fetch(`${apiUri}/.well-known/oauth-authorization-server`)).json()
  assert.equal(metadata.issuer, apiUri)
  assert.deepEqual(metadata.code_challenge_methods_supported, ['S256'])
})
await check('OAuth: a client registers itself', async () => {
  const answer = await fetch(metadata.registration_endpoint, {
    method: 'POST', headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ client_name: 'contract', redirect_uris: [redirect_uri], token_endpoint_auth_method: 'none' }),
  })
  assert.equal(answer.status, 201)
  client_id = (await answer.json()).client_id
})
const authorize = { response_type: 'code', state: 's', code_challenge: challenge, code_challenge_method: 'S256', redirect_uri }
const code = async (more) => {
  const { to } = await form('/oauth/authorize', { ...authorize, client_id, decision: 'approve', ...more })
  return new URL(to).searchParams
}
const exchange = (code, more) => form('/oauth/token', { grant_type: 'authorization_code', client_id, redirect_uri, code_verifier: verifier, code, ...more })
await check('OAuth: the code is sent back with state and iss', async () => {
  const q = await code()
  assert.deepEqual([q.get('state'), q.get('iss')], ['s', apiUri])
  const { status, body } = await exchange(q.get('code'))
  assert.equal(status, 200)
  tokens = OAuthTokenResponse.parse(body)
  assert.equal(TenantSelfResponse.parse(await new MembraneClient({ apiUri, token: tokens.access_token }).self.get()).workspaceKey, 'sandbox')
})
await check('OAuth: a wrong verifier', async () => {
  const { status, body } = await exchange((await code()).get('code'), { code_verifier: 'x'.repeat(43) })
  assert.deepEqual([status, body.error], [400, 'invalid_grant'])
})
await check('OAuth: a code is good once', async () => {
  const once = (await code()).get('code')
  const first = (await exchange(once)).body
  assert.equal((await exchange(once)).body.error, 'invalid_grant')
  await failure(new MembraneClient({ apiUri, token: first.access_token }).self.get())
})
await check('OAuth: refused by the person, and without PKCE', async () => {
  assert.equal((await code({ decision: 'deny' })).get('error'), 'access_denied')
  assert.equal((await code({ code_challenge_method: 'plain' })).get('error'), 'invalid_request')
})
await check('OAuth: an address that was not registered', async () => {
  const { status, to } = await form('/oauth/authorize', { ...authorize, client_id, redirect_uri: 'http://127.0.0.1:10/x', decision: 'approve' })
  assert.deepEqual([status, to], [400, null])
})
await check('OAuth: refresh, whose token is good once', async () => {
  const refresh = (refresh_token) => form('/oauth/token', { grant_type: 'refresh_token', client_id, refresh_token })
  const fresh = OAuthTokenResponse.parse((await refresh(tokens.refresh_token)).body)
  assert.notEqual(fresh.access_token, tokens.access_token)
  assert.equal((await refresh(tokens.refresh_token)).body.error, 'invalid_grant')
  await failure(new MembraneClient({ apiUri, token: fresh.access_token }).self.get())
})
await check('OAuth: revocation', async () => {
  const { body } = await exchange((await code({ token_type: 'tenant' })).get('code'))
  assert.equal((await form('/oauth/revoke', { token: body.refresh_token, client_id })).status, 200)
  await failure(new MembraneClient({ apiUri, token: body.access_token }).self.get())
})
