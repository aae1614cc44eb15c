import { expect, test } from 'vitest'
import { axisFrom } from '../../lib/ops/axis.ts'

test('an axis is a number, a name, or left out', () => {
  expect(axisFrom(0, -1)).toBe(0)
  expect(axisFrom({ axis: -2 }, -1)).toBe(-2)
  expect(axisFrom({}, -1)).toBe(-1)
  expect(axisFrom(undefined, 3)).toBe(3)
})
