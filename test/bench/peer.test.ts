import { expect, test } from 'vitest'
import { Peer } from '../../lib/bench/peer.ts'

const program = `
process.stdout.write('{"name":"peer"}\\n')
require('readline').createInterface({ input: process.stdin }).on('line', (line) => {
  const request = JSON.parse(line)
  if (request.fail) throw new Error('out of luck')
  process.stdout.write(JSON.stringify({ seconds: request.n }) + '\\n')
})`

test('a peer says what it is, answers in order, and tells why it ended', async () => {
  const [peer, hello] = await Peer.start<{ name: string }>(process.execPath, ['-e', program])
  expect(hello).toEqual({ name: 'peer' })
  expect(await peer.run({ n: 1 })).toBe(1)
  expect(await peer.run({ n: 2 })).toBe(2)
  await expect(peer.run({ fail: true })).rejects.toThrow('the peer ended')
  peer.stop()
})

test('a program that is not there', async () => {
  await expect(Peer.start('no-such-program', [])).rejects.toThrow('ENOENT')
})
