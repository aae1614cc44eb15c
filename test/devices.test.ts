import { totalmem } from 'node:os'
import { expect, test } from 'vitest'
import { availableMemory, chooseDevice, devices } from '../lib/devices.ts'

test('the CPU is always there, with what computes on it', () => {
  const { cpu } = devices()
  expect(cpu.available).toBe(true)
  expect(['avx2', 'avx512']).toContain(cpu.instructionSet)
  expect(cpu.blas).toMatch(/OpenBLAS/i)
  expect(cpu.threads).toBeGreaterThanOrEqual(1)
  expect(cpu.cores).toBeGreaterThanOrEqual(1)
})

test('memory is what a process can get', () => {
  expect(availableMemory()).toBeGreaterThan(0)
  expect(availableMemory()).toBeLessThanOrEqual(totalmem())
})

test('a device is chosen, or the reason why not is thrown', () => {
  const { cuda } = devices()
  expect(chooseDevice('cpu')).toBe('cpu')
  if (cuda.available) {
    expect(chooseDevice('auto')).toBe('cuda')
    expect(cuda.devices.length).toBeGreaterThan(0)
  } else {
    expect(chooseDevice('auto')).toBe('cpu')
    expect(cuda.reason).not.toBe('')
    expect(() => chooseDevice('cuda')).toThrow(cuda.reason)
  }
})
