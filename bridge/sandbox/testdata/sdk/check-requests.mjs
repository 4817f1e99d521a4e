// Reads a JSON array of bodies for POST /act, from stdin or from the file named
// as the first argument, and checks each against the strict request schema of
// the official SDK, and that exactly one field says what to run (which the
// schema does not ask). Prints one JSON line for each and exits 1 if any is
// refused.
import { readFileSync } from 'node:fs'
import { ActRequest } from '@membranehq/sdk'

const bodies = JSON.parse(readFileSync(process.argv[2] ?? 0, 'utf8'))
if (!Array.isArray(bodies)) {
  console.error('want a JSON array of request bodies')
  process.exit(2)
}
let refused = 0
bodies.forEach((body, i) => {
  const problems = []
  const parsed = ActRequest.safeParse(body)
  if (!parsed.success) {
    problems.push(...parsed.error.issues.map((issue) => `${issue.path.join('.') || 'body'}: ${issue.message}`))
  }
  const dispatch = ['id', 'key', 'api', 'code'].filter((name) => body?.[name] !== undefined)
  if (dispatch.length !== 1) {
    problems.push(`body: want exactly one of id, key, api and code, not ${dispatch.length}`)
  }
  if (problems.length > 0) refused++
  console.log(JSON.stringify({ name: `request ${i + 1}`, ok: problems.length === 0, error: problems.join('; ') }))
})
process.exit(refused > 0 ? 1 : 0)
