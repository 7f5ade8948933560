from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HandlerExit(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HANDLER_EXIT_UNKNOWN: _ClassVar[HandlerExit]
    HANDLER_EXIT_STOPPED: _ClassVar[HandlerExit]
    HANDLER_EXIT_CLOSED: _ClassVar[HandlerExit]
HANDLER_EXIT_UNKNOWN: HandlerExit
HANDLER_EXIT_STOPPED: HandlerExit
HANDLER_EXIT_CLOSED: HandlerExit

class ExecuteRequest(_message.Message):
    __slots__ = ("command", "args", "timeout_ms", "request_id", "call_id", "arg_kinds", "takes_events")
    class ArgsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    ARG_KINDS_FIELD_NUMBER: _ClassVar[int]
    TAKES_EVENTS_FIELD_NUMBER: _ClassVar[int]
    command: str
    args: _containers.ScalarMap[str, bytes]
    timeout_ms: int
    request_id: str
    call_id: int
    arg_kinds: bytes
    takes_events: int
    def __init__(self, command: _Optional[str] = ..., args: _Optional[_Mapping[str, bytes]] = ..., timeout_ms: _Optional[int] = ..., request_id: _Optional[str] = ..., call_id: _Optional[int] = ..., arg_kinds: _Optional[bytes] = ..., takes_events: _Optional[int] = ...) -> None: ...

class ExecuteResponse(_message.Message):
    __slots__ = ("success", "result", "error", "timestamp", "request_id", "error_detail", "result_kinds", "events", "batch_size", "batch_wait_us")
    class ResultEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_DETAIL_FIELD_NUMBER: _ClassVar[int]
    RESULT_KINDS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    BATCH_WAIT_US_FIELD_NUMBER: _ClassVar[int]
    success: bool
    result: _containers.ScalarMap[str, bytes]
    error: str
    timestamp: int
    request_id: str
    error_detail: ErrorDetail
    result_kinds: bytes
    events: _containers.RepeatedCompositeFieldContainer[CallEvent]
    batch_size: int
    batch_wait_us: int
    def __init__(self, success: bool = ..., result: _Optional[_Mapping[str, bytes]] = ..., error: _Optional[str] = ..., timestamp: _Optional[int] = ..., request_id: _Optional[str] = ..., error_detail: _Optional[_Union[ErrorDetail, _Mapping]] = ..., result_kinds: _Optional[bytes] = ..., events: _Optional[_Iterable[_Union[CallEvent, _Mapping]]] = ..., batch_size: _Optional[int] = ..., batch_wait_us: _Optional[int] = ...) -> None: ...

class StreamResponse(_message.Message):
    __slots__ = ("is_final", "chunk", "error", "timestamp", "request_id", "chunk_index", "error_detail", "chunk_kinds", "event")
    class ChunkEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    IS_FINAL_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHUNK_INDEX_FIELD_NUMBER: _ClassVar[int]
    ERROR_DETAIL_FIELD_NUMBER: _ClassVar[int]
    CHUNK_KINDS_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    is_final: bool
    chunk: _containers.ScalarMap[str, bytes]
    error: str
    timestamp: int
    request_id: str
    chunk_index: int
    error_detail: ErrorDetail
    chunk_kinds: bytes
    event: CallEvent
    def __init__(self, is_final: bool = ..., chunk: _Optional[_Mapping[str, bytes]] = ..., error: _Optional[str] = ..., timestamp: _Optional[int] = ..., request_id: _Optional[str] = ..., chunk_index: _Optional[int] = ..., error_detail: _Optional[_Union[ErrorDetail, _Mapping]] = ..., chunk_kinds: _Optional[bytes] = ..., event: _Optional[_Union[CallEvent, _Mapping]] = ...) -> None: ...

class SessionRequest(_message.Message):
    __slots__ = ("session_id", "command", "args", "timeout_ms", "request_id", "call_id", "arg_kinds", "session_generation", "takes_events", "client_id")
    class ArgsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    ARG_KINDS_FIELD_NUMBER: _ClassVar[int]
    SESSION_GENERATION_FIELD_NUMBER: _ClassVar[int]
    TAKES_EVENTS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    command: str
    args: _containers.ScalarMap[str, bytes]
    timeout_ms: int
    request_id: str
    call_id: int
    arg_kinds: bytes
    session_generation: int
    takes_events: int
    client_id: int
    def __init__(self, session_id: _Optional[str] = ..., command: _Optional[str] = ..., args: _Optional[_Mapping[str, bytes]] = ..., timeout_ms: _Optional[int] = ..., request_id: _Optional[str] = ..., call_id: _Optional[int] = ..., arg_kinds: _Optional[bytes] = ..., session_generation: _Optional[int] = ..., takes_events: _Optional[int] = ..., client_id: _Optional[int] = ...) -> None: ...

class EndSessionRequest(_message.Message):
    __slots__ = ("session_id", "session_generation", "client_id")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    SESSION_GENERATION_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    session_generation: int
    client_id: int
    def __init__(self, session_id: _Optional[str] = ..., session_generation: _Optional[int] = ..., client_id: _Optional[int] = ...) -> None: ...

class EndSessionResponse(_message.Message):
    __slots__ = ("ended",)
    ENDED_FIELD_NUMBER: _ClassVar[int]
    ended: bool
    def __init__(self, ended: bool = ...) -> None: ...

class CallFrame(_message.Message):
    __slots__ = ("call_id", "act", "command", "args", "arg_kinds", "session_id", "request_id", "timeout_us", "metadata", "session_generation", "takes_events", "client_id")
    class Act(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        CALL: _ClassVar[CallFrame.Act]
        CANCEL: _ClassVar[CallFrame.Act]
        RECALL: _ClassVar[CallFrame.Act]
        START_JOURNAL: _ClassVar[CallFrame.Act]
    CALL: CallFrame.Act
    CANCEL: CallFrame.Act
    RECALL: CallFrame.Act
    START_JOURNAL: CallFrame.Act
    class ArgsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    class MetadataEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    ACT_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    ARG_KINDS_FIELD_NUMBER: _ClassVar[int]
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_US_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    SESSION_GENERATION_FIELD_NUMBER: _ClassVar[int]
    TAKES_EVENTS_FIELD_NUMBER: _ClassVar[int]
    CLIENT_ID_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    act: CallFrame.Act
    command: str
    args: _containers.ScalarMap[str, bytes]
    arg_kinds: bytes
    session_id: str
    request_id: str
    timeout_us: int
    metadata: _containers.ScalarMap[str, str]
    session_generation: int
    takes_events: int
    client_id: int
    def __init__(self, call_id: _Optional[int] = ..., act: _Optional[_Union[CallFrame.Act, str]] = ..., command: _Optional[str] = ..., args: _Optional[_Mapping[str, bytes]] = ..., arg_kinds: _Optional[bytes] = ..., session_id: _Optional[str] = ..., request_id: _Optional[str] = ..., timeout_us: _Optional[int] = ..., metadata: _Optional[_Mapping[str, str]] = ..., session_generation: _Optional[int] = ..., takes_events: _Optional[int] = ..., client_id: _Optional[int] = ...) -> None: ...

class ReplyFrame(_message.Message):
    __slots__ = ("call_id", "success", "result", "result_kinds", "error", "error_detail", "handler_ns", "not_started", "ended", "has_start_journal", "handler_exit", "act", "event", "batch_size", "batch_wait_us")
    class Act(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        REPLY: _ClassVar[ReplyFrame.Act]
        DRAINING: _ClassVar[ReplyFrame.Act]
        EVENT: _ClassVar[ReplyFrame.Act]
    REPLY: ReplyFrame.Act
    DRAINING: ReplyFrame.Act
    EVENT: ReplyFrame.Act
    class ResultEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    RESULT_KINDS_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ERROR_DETAIL_FIELD_NUMBER: _ClassVar[int]
    HANDLER_NS_FIELD_NUMBER: _ClassVar[int]
    NOT_STARTED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    HAS_START_JOURNAL_FIELD_NUMBER: _ClassVar[int]
    HANDLER_EXIT_FIELD_NUMBER: _ClassVar[int]
    ACT_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    BATCH_WAIT_US_FIELD_NUMBER: _ClassVar[int]
    call_id: int
    success: bool
    result: _containers.ScalarMap[str, bytes]
    result_kinds: bytes
    error: str
    error_detail: ErrorDetail
    handler_ns: int
    not_started: bool
    ended: str
    has_start_journal: bool
    handler_exit: HandlerExit
    act: ReplyFrame.Act
    event: CallEvent
    batch_size: int
    batch_wait_us: int
    def __init__(self, call_id: _Optional[int] = ..., success: bool = ..., result: _Optional[_Mapping[str, bytes]] = ..., result_kinds: _Optional[bytes] = ..., error: _Optional[str] = ..., error_detail: _Optional[_Union[ErrorDetail, _Mapping]] = ..., handler_ns: _Optional[int] = ..., not_started: bool = ..., ended: _Optional[str] = ..., has_start_journal: bool = ..., handler_exit: _Optional[_Union[HandlerExit, str]] = ..., act: _Optional[_Union[ReplyFrame.Act, str]] = ..., event: _Optional[_Union[CallEvent, _Mapping]] = ..., batch_size: _Optional[int] = ..., batch_wait_us: _Optional[int] = ...) -> None: ...

class ConverseUp(_message.Message):
    __slots__ = ("call", "answers", "items", "input_ends", "demand")
    CALL_FIELD_NUMBER: _ClassVar[int]
    ANSWERS_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    INPUT_ENDS_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    call: ConverseCall
    answers: _containers.RepeatedCompositeFieldContainer[ToolAnswer]
    items: _containers.RepeatedCompositeFieldContainer[InputItems]
    input_ends: _containers.RepeatedCompositeFieldContainer[InputEnd]
    demand: Demand
    def __init__(self, call: _Optional[_Union[ConverseCall, _Mapping]] = ..., answers: _Optional[_Iterable[_Union[ToolAnswer, _Mapping]]] = ..., items: _Optional[_Iterable[_Union[InputItems, _Mapping]]] = ..., input_ends: _Optional[_Iterable[_Union[InputEnd, _Mapping]]] = ..., demand: _Optional[_Union[Demand, _Mapping]] = ...) -> None: ...

class ConverseCall(_message.Message):
    __slots__ = ("call", "stream", "tools", "max_asks", "inputs")
    CALL_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    TOOLS_FIELD_NUMBER: _ClassVar[int]
    MAX_ASKS_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    call: CallFrame
    stream: bool
    tools: _containers.RepeatedScalarFieldContainer[str]
    max_asks: int
    inputs: _containers.RepeatedCompositeFieldContainer[InputArgument]
    def __init__(self, call: _Optional[_Union[CallFrame, _Mapping]] = ..., stream: bool = ..., tools: _Optional[_Iterable[str]] = ..., max_asks: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[InputArgument, _Mapping]]] = ...) -> None: ...

class InputArgument(_message.Message):
    __slots__ = ("name", "input_id", "max_items", "max_bytes")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INPUT_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    name: str
    input_id: int
    max_items: int
    max_bytes: int
    def __init__(self, name: _Optional[str] = ..., input_id: _Optional[int] = ..., max_items: _Optional[int] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class ToolAnswer(_message.Message):
    __slots__ = ("ask_id", "value", "kind", "error")
    ASK_ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ask_id: int
    value: bytes
    kind: int
    error: ErrorDetail
    def __init__(self, ask_id: _Optional[int] = ..., value: _Optional[bytes] = ..., kind: _Optional[int] = ..., error: _Optional[_Union[ErrorDetail, _Mapping]] = ...) -> None: ...

class InputItems(_message.Message):
    __slots__ = ("input_id", "values", "kinds")
    INPUT_ID_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    input_id: int
    values: _containers.RepeatedScalarFieldContainer[bytes]
    kinds: bytes
    def __init__(self, input_id: _Optional[int] = ..., values: _Optional[_Iterable[bytes]] = ..., kinds: _Optional[bytes] = ...) -> None: ...

class InputEnd(_message.Message):
    __slots__ = ("input_id", "error")
    INPUT_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    input_id: int
    error: ErrorDetail
    def __init__(self, input_id: _Optional[int] = ..., error: _Optional[_Union[ErrorDetail, _Mapping]] = ...) -> None: ...

class Demand(_message.Message):
    __slots__ = ("count", "bytes")
    COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    count: int
    bytes: int
    def __init__(self, count: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class ConverseDown(_message.Message):
    __slots__ = ("chunks", "reply", "asks", "withdrawn_asks", "input_demands", "stopped_inputs", "events")
    CHUNKS_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    ASKS_FIELD_NUMBER: _ClassVar[int]
    WITHDRAWN_ASKS_FIELD_NUMBER: _ClassVar[int]
    INPUT_DEMANDS_FIELD_NUMBER: _ClassVar[int]
    STOPPED_INPUTS_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    chunks: _containers.RepeatedCompositeFieldContainer[StreamResponse]
    reply: ReplyFrame
    asks: _containers.RepeatedCompositeFieldContainer[ToolAsk]
    withdrawn_asks: _containers.RepeatedScalarFieldContainer[int]
    input_demands: _containers.RepeatedCompositeFieldContainer[InputDemand]
    stopped_inputs: _containers.RepeatedScalarFieldContainer[int]
    events: _containers.RepeatedCompositeFieldContainer[CallEvent]
    def __init__(self, chunks: _Optional[_Iterable[_Union[StreamResponse, _Mapping]]] = ..., reply: _Optional[_Union[ReplyFrame, _Mapping]] = ..., asks: _Optional[_Iterable[_Union[ToolAsk, _Mapping]]] = ..., withdrawn_asks: _Optional[_Iterable[int]] = ..., input_demands: _Optional[_Iterable[_Union[InputDemand, _Mapping]]] = ..., stopped_inputs: _Optional[_Iterable[int]] = ..., events: _Optional[_Iterable[_Union[CallEvent, _Mapping]]] = ...) -> None: ...

class ToolAsk(_message.Message):
    __slots__ = ("ask_id", "tool", "args", "arg_kinds", "timeout_us")
    class ArgsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: bytes
        def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...
    ASK_ID_FIELD_NUMBER: _ClassVar[int]
    TOOL_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    ARG_KINDS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_US_FIELD_NUMBER: _ClassVar[int]
    ask_id: int
    tool: str
    args: _containers.ScalarMap[str, bytes]
    arg_kinds: bytes
    timeout_us: int
    def __init__(self, ask_id: _Optional[int] = ..., tool: _Optional[str] = ..., args: _Optional[_Mapping[str, bytes]] = ..., arg_kinds: _Optional[bytes] = ..., timeout_us: _Optional[int] = ...) -> None: ...

class InputDemand(_message.Message):
    __slots__ = ("input_id", "demand")
    INPUT_ID_FIELD_NUMBER: _ClassVar[int]
    DEMAND_FIELD_NUMBER: _ClassVar[int]
    input_id: int
    demand: Demand
    def __init__(self, input_id: _Optional[int] = ..., demand: _Optional[_Union[Demand, _Mapping]] = ...) -> None: ...

class CallEvent(_message.Message):
    __slots__ = ("progress", "telemetry")
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    TELEMETRY_FIELD_NUMBER: _ClassVar[int]
    progress: Progress
    telemetry: TelemetryEvent
    def __init__(self, progress: _Optional[_Union[Progress, _Mapping]] = ..., telemetry: _Optional[_Union[TelemetryEvent, _Mapping]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("fraction", "message")
    FRACTION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    fraction: float
    message: str
    def __init__(self, fraction: _Optional[float] = ..., message: _Optional[str] = ...) -> None: ...

class TelemetryEvent(_message.Message):
    __slots__ = ("name", "measurements", "metadata")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MEASUREMENTS_FIELD_NUMBER: _ClassVar[int]
    METADATA_FIELD_NUMBER: _ClassVar[int]
    name: str
    measurements: bytes
    metadata: bytes
    def __init__(self, name: _Optional[str] = ..., measurements: _Optional[bytes] = ..., metadata: _Optional[bytes] = ...) -> None: ...

class HealthRequest(_message.Message):
    __slots__ = ("worker_id", "await_call_id")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    AWAIT_CALL_ID_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    await_call_id: int
    def __init__(self, worker_id: _Optional[str] = ..., await_call_id: _Optional[int] = ...) -> None: ...

class HealthResponse(_message.Message):
    __slots__ = ("healthy", "worker_id", "uptime_ms", "total_requests", "total_errors", "version", "running_call_ids", "await_ended", "in_flight", "python_stuck_ms", "await_exit", "batch_sizes", "instance_id", "has_converse")
    class BatchSizesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_ERRORS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    RUNNING_CALL_IDS_FIELD_NUMBER: _ClassVar[int]
    AWAIT_ENDED_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    PYTHON_STUCK_MS_FIELD_NUMBER: _ClassVar[int]
    AWAIT_EXIT_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZES_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    HAS_CONVERSE_FIELD_NUMBER: _ClassVar[int]
    healthy: bool
    worker_id: str
    uptime_ms: int
    total_requests: int
    total_errors: int
    version: str
    running_call_ids: _containers.RepeatedScalarFieldContainer[int]
    await_ended: str
    in_flight: int
    python_stuck_ms: int
    await_exit: HandlerExit
    batch_sizes: _containers.ScalarMap[str, int]
    instance_id: int
    has_converse: bool
    def __init__(self, healthy: bool = ..., worker_id: _Optional[str] = ..., uptime_ms: _Optional[int] = ..., total_requests: _Optional[int] = ..., total_errors: _Optional[int] = ..., version: _Optional[str] = ..., running_call_ids: _Optional[_Iterable[int]] = ..., await_ended: _Optional[str] = ..., in_flight: _Optional[int] = ..., python_stuck_ms: _Optional[int] = ..., await_exit: _Optional[_Union[HandlerExit, str]] = ..., batch_sizes: _Optional[_Mapping[str, int]] = ..., instance_id: _Optional[int] = ..., has_converse: bool = ...) -> None: ...

class InfoRequest(_message.Message):
    __slots__ = ("include_capabilities", "include_stats", "include_commands")
    INCLUDE_CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_STATS_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_COMMANDS_FIELD_NUMBER: _ClassVar[int]
    include_capabilities: bool
    include_stats: bool
    include_commands: bool
    def __init__(self, include_capabilities: bool = ..., include_stats: bool = ..., include_commands: bool = ...) -> None: ...

class InfoResponse(_message.Message):
    __slots__ = ("worker_type", "version", "supported_commands", "capabilities", "stats", "system_info", "commands")
    class CapabilitiesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class SystemInfoEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    WORKER_TYPE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SUPPORTED_COMMANDS_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    STATS_FIELD_NUMBER: _ClassVar[int]
    SYSTEM_INFO_FIELD_NUMBER: _ClassVar[int]
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    worker_type: str
    version: str
    supported_commands: _containers.RepeatedScalarFieldContainer[str]
    capabilities: _containers.ScalarMap[str, str]
    stats: WorkerStats
    system_info: _containers.ScalarMap[str, str]
    commands: _containers.RepeatedCompositeFieldContainer[CommandInfo]
    def __init__(self, worker_type: _Optional[str] = ..., version: _Optional[str] = ..., supported_commands: _Optional[_Iterable[str]] = ..., capabilities: _Optional[_Mapping[str, str]] = ..., stats: _Optional[_Union[WorkerStats, _Mapping]] = ..., system_info: _Optional[_Mapping[str, str]] = ..., commands: _Optional[_Iterable[_Union[CommandInfo, _Mapping]]] = ...) -> None: ...

class CommandInfo(_message.Message):
    __slots__ = ("name", "signature", "doc", "streams", "is_async", "parameters", "batch")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    DOC_FIELD_NUMBER: _ClassVar[int]
    STREAMS_FIELD_NUMBER: _ClassVar[int]
    IS_ASYNC_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    BATCH_FIELD_NUMBER: _ClassVar[int]
    name: str
    signature: str
    doc: str
    streams: bool
    is_async: bool
    parameters: _containers.RepeatedCompositeFieldContainer[ParameterInfo]
    batch: BatchInfo
    def __init__(self, name: _Optional[str] = ..., signature: _Optional[str] = ..., doc: _Optional[str] = ..., streams: bool = ..., is_async: bool = ..., parameters: _Optional[_Iterable[_Union[ParameterInfo, _Mapping]]] = ..., batch: _Optional[_Union[BatchInfo, _Mapping]] = ...) -> None: ...

class BatchInfo(_message.Message):
    __slots__ = ("size", "wait_ms", "max_bytes")
    SIZE_FIELD_NUMBER: _ClassVar[int]
    WAIT_MS_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    size: int
    wait_ms: float
    max_bytes: int
    def __init__(self, size: _Optional[int] = ..., wait_ms: _Optional[float] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class ParameterInfo(_message.Message):
    __slots__ = ("name", "type", "default", "required")
    NAME_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FIELD_NUMBER: _ClassVar[int]
    name: str
    type: str
    default: str
    required: bool
    def __init__(self, name: _Optional[str] = ..., type: _Optional[str] = ..., default: _Optional[str] = ..., required: bool = ...) -> None: ...

class WorkerStats(_message.Message):
    __slots__ = ("requests_handled", "requests_failed", "uptime_ms", "memory_usage_bytes", "cpu_usage_percent", "active_sessions", "python_stuck_ms", "progress")
    REQUESTS_HANDLED_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FAILED_FIELD_NUMBER: _ClassVar[int]
    UPTIME_MS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CPU_USAGE_PERCENT_FIELD_NUMBER: _ClassVar[int]
    ACTIVE_SESSIONS_FIELD_NUMBER: _ClassVar[int]
    PYTHON_STUCK_MS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    requests_handled: int
    requests_failed: int
    uptime_ms: int
    memory_usage_bytes: int
    cpu_usage_percent: float
    active_sessions: int
    python_stuck_ms: int
    progress: _containers.RepeatedCompositeFieldContainer[CallProgress]
    def __init__(self, requests_handled: _Optional[int] = ..., requests_failed: _Optional[int] = ..., uptime_ms: _Optional[int] = ..., memory_usage_bytes: _Optional[int] = ..., cpu_usage_percent: _Optional[float] = ..., active_sessions: _Optional[int] = ..., python_stuck_ms: _Optional[int] = ..., progress: _Optional[_Iterable[_Union[CallProgress, _Mapping]]] = ...) -> None: ...

class CallProgress(_message.Message):
    __slots__ = ("command", "request_id", "progress")
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    command: str
    request_id: str
    progress: Progress
    def __init__(self, command: _Optional[str] = ..., request_id: _Optional[str] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ...) -> None: ...

class ErrorDetail(_message.Message):
    __slots__ = ("reason", "type", "message", "traceback", "frames", "notes", "cause", "code", "data")
    REASON_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    NOTES_FIELD_NUMBER: _ClassVar[int]
    CAUSE_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    reason: str
    type: str
    message: str
    traceback: str
    frames: _containers.RepeatedCompositeFieldContainer[ErrorFrame]
    notes: _containers.RepeatedScalarFieldContainer[str]
    cause: ErrorDetail
    code: str
    data: bytes
    def __init__(self, reason: _Optional[str] = ..., type: _Optional[str] = ..., message: _Optional[str] = ..., traceback: _Optional[str] = ..., frames: _Optional[_Iterable[_Union[ErrorFrame, _Mapping]]] = ..., notes: _Optional[_Iterable[str]] = ..., cause: _Optional[_Union[ErrorDetail, _Mapping]] = ..., code: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class ErrorFrame(_message.Message):
    __slots__ = ("file", "line", "function", "source")
    FILE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    file: str
    line: int
    function: str
    source: str
    def __init__(self, file: _Optional[str] = ..., line: _Optional[int] = ..., function: _Optional[str] = ..., source: _Optional[str] = ...) -> None: ...
