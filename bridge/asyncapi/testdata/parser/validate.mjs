// Reads AsyncAPI documents from standard input, with a line of --- between two, with
// AsyncAPI's own parser, and prints for each what it finds wrong with it and what it
// found in it, as one line of JSON.
import { Parser } from '@asyncapi/parser'

let text = ''
for await (const chunk of process.stdin) text += chunk
const parser = new Parser()
for (const source of text.split('\n---\n')) {
  const { document, diagnostics } = await parser.parse(source)
  console.log(JSON.stringify({
    problems: diagnostics.map((d) => ({ code: String(d.code), severity: d.severity, path: d.path.join('/'), message: d.message })),
    version: document?.version(),
    channels: document?.channels().all().map((c) => c.address()),
    operations: document?.operations().all().map((o) => o.id()),
    messages: document?.messages().all().map((m) => m.id()),
  }))
}
