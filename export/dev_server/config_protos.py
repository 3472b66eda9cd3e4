"""Messages of TF Serving's configuration files that the package tensorflow-serving-api does not carry.

They are built from the names of their fields. Only text is read with them, so the fields' numbers are of no importance.
Source: session_bundle_config.proto and monitoring_config.proto of TF Serving.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_FIELDS = {
    "BatchingParameters": {
        "max_batch_size": "Int64Value",
        "batch_timeout_micros": "Int64Value",
        "max_enqueued_batches": "Int64Value",
        "num_batch_threads": "Int64Value",
        "thread_pool_name": "StringValue",
        "allowed_batch_sizes": "repeated int64",
        "pad_variable_length_inputs": "bool",
        "enable_large_batch_splitting": "BoolValue",
        "max_execution_batch_size": "Int64Value",
    },
    "PrometheusConfig": {"enable": "bool", "path": "string"},
    "MonitoringConfig": {"prometheus_config": "PrometheusConfig"},
}
_PACKAGE = "local_server"


def _build():
    kinds = descriptor_pb2.FieldDescriptorProto
    scalars = {"bool": kinds.TYPE_BOOL, "int64": kinds.TYPE_INT64, "string": kinds.TYPE_STRING}
    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    for message_name, fields in _FIELDS.items():
        message = file.message_type.add(name=message_name)
        for number, (field_name, kind) in enumerate(fields.items(), start=1):
            repeated, kind = kind.startswith("repeated "), kind.split()[-1]
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            field = message.field.add(name=field_name, number=number, label=label)
            if kind in scalars:
                field.type = scalars[kind]
            else:
                field.type = kinds.TYPE_MESSAGE
                field.type_name = f".{_PACKAGE if kind in _FIELDS else 'google.protobuf'}.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _FIELDS}


_CLASSES = _build()
BatchingParameters = _CLASSES["BatchingParameters"]
MonitoringConfig = _CLASSES["MonitoringConfig"]
