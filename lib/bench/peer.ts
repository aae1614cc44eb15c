// Another program that is measured beside ours: it stays alive, runs a case when asked, and answers with the seconds.
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'

/** A child process that answers each line of JSON with a line of JSON. */
export class Peer {
  readonly #child: ChildProcessWithoutNullStreams
  readonly #lines: AsyncIterator<string>
  #errors = ''

  private constructor(child: ChildProcessWithoutNullStreams) {
    this.#child = child
    this.#lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
    child.stderr.on('data', (text: Buffer) => {
      this.#errors += text.toString()
    })
  }

  /** Starts it and reads its first line, in which it says what it is. */
  static async start<Hello>(command: string, args: string[], env: NodeJS.ProcessEnv = {}): Promise<[Peer, Hello]> {
    const child = spawn(command, args, { env: { ...process.env, ...env } })
    await new Promise<void>((resolve, reject) => {
      child.once('spawn', resolve)
      child.once('error', reject)
    })
    const peer = new Peer(child)
    return [peer, (await peer.#next()) as Hello]
  }

  async #next(): Promise<unknown> {
    const { value, done } = await this.#lines.next()
    if (done) throw new Error(`the peer ended: ${this.#errors.trim().split('\n').at(-1) ?? ''}`)
    return JSON.parse(value)
  }

  /**
   * The seconds that one run of the case took.
   * @throws Error with its reason when it cannot do it
   */
  async run(request: unknown): Promise<number> {
    this.#child.stdin.write(`${JSON.stringify(request)}\n`)
    const answer = (await this.#next()) as { seconds: number; error?: string }
    if (answer.error !== undefined) throw new Error(answer.error)
    return answer.seconds
  }

  /** Lets it free what it holds for the cases so far. */
  async forget(): Promise<void> {
    this.#child.stdin.write(`${JSON.stringify({ forget: true })}\n`)
    await this.#next()
  }

  stop(): void {
    this.#child.kill()
  }
}
