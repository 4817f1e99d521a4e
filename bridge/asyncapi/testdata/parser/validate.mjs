// Reads an AsyncAPI document from standard input with AsyncAPI's own parser, and
// prints what it finds wrong with it and what it found in it, as one line of JSON.
import { Parser } from '@asyncapi/parser'

let text = ''
for await (const chunk of process.stdin) text += chunk
const { document, diagnostics } = await new Parser().parse(text)
console.log(JSON.stringify({
  problems: diagnostics.map((d) => ({ code: String(d.code), severity: d.severity, path: d.path.join('/'), message: d.message })),
  version: document?.version(),
  channels: document?.channels().all().map((c) => c.address()),
  operations: document?.operations().all().map((o) => o.id()),
  messages: document?.messages().all().map((m) => m.id()),
  schemas: document?.schemas().all().length,
}))
