// Brings a microphone's samples to another rate.

/** Makes each output sample the mean of the input that it covers: a mild low-pass, without a look ahead. */
export class Averager {
  readonly #step: number;
  #sum = 0;
  /** How much of the output sample under way is filled, in input samples. */
  #filled = 0;

  constructor(inputRate: number, outputRate: number) {
    this.#step = inputRate / outputRate;
  }

  push(input: Float32Array, emit: (sample: number) => void): void {
    for (const sample of input) {
      let left = 1;
      while (this.#filled + left >= this.#step) {
        const part = this.#step - this.#filled;
        emit((this.#sum + sample * part) / this.#step);
        left -= part;
        this.#sum = 0;
        this.#filled = 0;
      }
      this.#sum += sample * left;
      this.#filled += left;
    }
  }
}
