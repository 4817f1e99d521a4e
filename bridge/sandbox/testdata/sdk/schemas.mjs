// Holds the sandbox, whose base URL is the first argument, against the SDK's
// request schemas: for each field of a body, values of every kind are sent, and the
// sandbox must refuse for that field's sake exactly those that the schema refuses.
// Prints one JSON line for each schema: {"name", "ok", "error"}.
import {
  AgentSessionInputSchema, CreateActionRequest, CreateAgentSession, CreateConnectionRequest, CreateConnectionRequestPayload,
  EnsureConnectionRequest, GenerateWorkspaceAccessTokenRequest, PatchAgentSessionSchema, RunActionRequest, UpdateActionRequest,
  UpdateConnectionRequest,
} from '@membranehq/sdk'

const apiUri = process.argv[2]
const ask = async (method, path, body) => {
  const answer = await fetch(apiUri + path, {
    method, headers: { authorization: 'Bearer pat-sandbox', 'content-type': 'application/json' }, body: JSON.stringify(body),
  })
  const text = await answer.text()
  return { status: answer.status, body: text ? JSON.parse(text) : undefined }
}
const made = async (path, body) => (await ask('POST', path, body)).body.id
const action = await made('/actions', {
  name: 'Mine', type: 'api-request-to-external-app', connectionId: '8x8-sandbox', config: { request: { method: 'GET', path: '/x' } },
})
const connection = await made('/connections', { connectorKey: '8x8', key: 'mine' })
const session = await made('/agent/sessions', { prompt: 'x' })

const long = (n) => 'x'.repeat(n)
const values = [null, true, 1.5, '', 'x', ['x'], {}]
const lists = [[], [1], [{ title: 't', data: 1 }], [{ data: 1 }]]
const errors = [{ message: 'x' }, { message: 'x', type: 'nonsense' }, { message: 'x', causedByError: { message: 1 } }, { message: 'x', logs: 1 }]
const keys = [long(100), long(101)]
const dataSchemas = [
  { type: 'string' }, { type: ['string', 'null'] }, { type: 5 }, { properties: { a: { type: 5 } } }, { properties: { a: { items: { enum: [1] } } } },
  { required: ['a'] }, { required: true }, { enum: ['a'] }, { enum: [1] }, { minLength: '1' }, { additionalProperties: false },
  { additionalProperties: { type: 1 } }, { anyOf: [{}] }, { anyOf: [1] }, { items: 1 }, { oneOf: 5 }, { isSensitive: 'x' },
  { referenceCollection: { key: 'a' } }, { referenceCollection: { parameters: 1 } }, { title: null }, { allowCustom: 1 }, { $ref: 1 },
]
// What is worth sending to some fields only.
const special = {
  key: keys, connectionKey: keys, redirectUri: ['https://www.8x8.com/x', 'a:b'], attachments: lists, promptAttachments: lists, error: errors,
  type: ['run-javascript', 'action_run'], agentName: ['membrane'], modelId: ['openai/gpt-5.2'], workspaceElementType: ['action', 'Action'],
  state: ['busy'], status: ['completed', 'COMPLETED'], lastActivityAt: ['2026-01-02T03:04:05Z', 0],
}
const addresses = ['8x8.com', 'www.8x8.com', 'http://8x8', 'https://10.0.0.1', 'https://connect.8x8.com/a?b=c', 'nowhere', long(2001) + '.com']

const cases = [
  ['POST', '/actions', CreateActionRequest, { intent: 'x', connectionId: '8x8-sandbox' }],
  ['PATCH', `/actions/${action}`, UpdateActionRequest, {}],
  ['POST', '/connections', CreateConnectionRequest, { connectorKey: '8x8' }],
  ['PATCH', `/connections/${connection}`, UpdateConnectionRequest, {}],
  ['POST', '/connections/ensure', EnsureConnectionRequest, { appUrl: 'https://www.8x8.com' }],
  ['POST', '/connection-requests', CreateConnectionRequestPayload, { connectorKey: '8x8' }],
  ['POST', '/actions/list-groups/run', RunActionRequest, {}],
  ['POST', '/agent/sessions', CreateAgentSession, { prompt: 'x' }],
  ['POST', `/agent/sessions/${session}/message`, AgentSessionInputSchema, { input: 'x' }],
  ['PATCH', `/agent/sessions/${session}`, PatchAgentSessionSchema, {}],
  ['POST', '/org-workspaces/sandbox/access-token', GenerateWorkspaceAccessTokenRequest, { tenantKey: 'x' }],
]
special.appUrl = addresses
special.inputSchema = dataSchemas
for (const [method, path, schema, base] of cases) {
  const bodies = [base, { ...base, unknown: 1 }, []]
  for (const field of Object.keys(schema.shape)) {
    for (const value of [...values, ...(special[field] ?? [])]) bodies.push({ ...base, [field]: value })
    const { [field]: _, ...without } = base
    bodies.push(without)
  }
  const wrong = []
  await Promise.all(bodies.map(async (body) => {
    const wanted = schema.safeParse(body)
    const { status, body: answer } = await ask(method, path, body)
    const field = answer?.data?.field
    const refused = Array.isArray(body) ? status === 400 : status === 400 && field !== undefined
    if (refused === wanted.success || (!wanted.success && field && wanted.error.issues[0].path[0] !== field)) {
      wrong.push(`${JSON.stringify(body).slice(0, 120)}: the SDK says ${wanted.success ? 'yes' : 'no'}, the sandbox ${status} ${JSON.stringify(answer).slice(0, 160)}`)
    }
  }))
  console.log(JSON.stringify({ name: `${method} ${path.replace(/[0-9a-f]{24}/, '{id}')} (${bodies.length} bodies)`, ok: wrong.length === 0, error: wrong.slice(0, 10).join('\n') }))
}
