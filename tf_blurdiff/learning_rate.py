"""The learning rate as a function of the step."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("tf_blurdiff")
class LinearWarmUp(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises linearly over the first `warmup_steps` steps and then stays.

    Example:
        >>> [round(float(LinearWarmUp(0.1, 4)(step)), 4) for step in (0, 1, 3, 9)]
        [0.025, 0.05, 0.1, 0.1]
    """

    def __init__(self, learning_rate, warmup_steps):
        self.learning_rate = learning_rate
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        share = (ops.cast(step, "float32") + 1.0) / max(1, self.warmup_steps)
        return self.learning_rate * ops.minimum(1.0, share)

    def get_config(self):
        """The two arguments."""
        return {"learning_rate": self.learning_rate, "warmup_steps": self.warmup_steps}
