// How an axis may be given.

/** Which axis, as a number or by name; negative ones count from the end. */
export type Axis = number | { axis?: number }

export const axisFrom = (axis: Axis | undefined, otherwise: number): number =>
  typeof axis === 'number' ? axis : (axis?.axis ?? otherwise)
