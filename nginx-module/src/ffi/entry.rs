//! What nginx calls: the module's tables and the trampolines behind them. Each trampoline turns raw pointers into
//! views, catches panics, and maps the result to what nginx expects.

use core::ffi::{c_char, c_void};
use core::mem::{self, offset_of};
use core::ptr;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nginx_sys::{
    NGX_AGAIN, NGX_DECLINED, NGX_ERROR, NGX_HTTP_LMT_CONF, NGX_HTTP_LOC_CONF, NGX_HTTP_MAIN_CONF,
    NGX_HTTP_MODULE, NGX_HTTP_SRV_CONF, NGX_HTTP_VAR_CHANGEABLE, NGX_HTTP_VAR_NOCACHEABLE,
    NGX_HTTP_VAR_PREFIX, NGX_OK, ngx_array_push, ngx_buf_t, ngx_chain_t, ngx_command_t, ngx_conf_t,
    ngx_cycle_t, ngx_http_add_variable, ngx_http_conf_ctx_t, ngx_http_core_loc_conf_t,
    ngx_http_core_module, ngx_http_discard_request_body, ngx_http_handler_pt, ngx_http_module_t,
    ngx_http_output_filter, ngx_http_phases, ngx_http_phases_NGX_HTTP_ACCESS_PHASE,
    ngx_http_phases_NGX_HTTP_PREACCESS_PHASE, ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE,
    ngx_http_request_t, ngx_http_send_header, ngx_http_variable_t, ngx_http_variable_value_t,
    ngx_int_t, ngx_module_t, ngx_pcalloc, ngx_process, ngx_str_t, ngx_uint_t,
};
use ngx::core::Pool;
use ngx::http::{HttpModuleConfExt, HttpModuleMainConf, NgxHttpCoreModule};

use super::conf::{Conf, bytes};
use super::request::Request;
use super::zone::Zone;
use super::{shim, subrequest, watch};
use crate::access::{self, Decision};
use crate::conf::{LocConf, MainConf};
use crate::directives::{Arguments, Contexts, DIRECTIVES, Directive};
use crate::error::{ConfError, Reason, Refusal};
use crate::log::Level;
use crate::status::{self, StatusFormat};
use crate::variables::{self, SetVariable, Variable};

/// The module's descriptor, under the name that `load_module` finds through `ngx_modules`.
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, unreachable_pub)]
pub static mut ngx_http_jwt_module: ngx_module_t = ngx_module_t {
    ctx: (&raw const CONTEXT).cast_mut().cast(),
    commands: (&raw mut COMMANDS).cast(),
    type_: NGX_HTTP_MODULE as ngx_uint_t,
    init_module: Some(init_module),
    init_process: Some(init_process),
    ..ngx_module_t::default()
};
ngx::ngx_modules!(ngx_http_jwt_module);

static CONTEXT: ngx_http_module_t = ngx_http_module_t {
    preconfiguration: Some(preconfiguration),
    postconfiguration: Some(postconfiguration),
    create_main_conf: Some(create_main_conf),
    init_main_conf: None,
    create_srv_conf: None,
    merge_srv_conf: None,
    create_loc_conf: Some(create_loc_conf),
    merge_loc_conf: Some(merge_loc_conf),
};

/// What is said of a panic while the configuration is read.
const INTERNAL: &str = "internal error of ngx_http_jwt_module";

/// What ends nginx's list of commands.
const END: ngx_command_t = ngx_command_t {
    name: ngx_str_t { len: 0, data: ptr::null_mut() },
    type_: 0,
    set: None,
    conf: 0,
    offset: 0,
    post: ptr::null_mut(),
};

static mut COMMANDS: [ngx_command_t; DIRECTIVES.len() + 1] = {
    let mut commands = [END; DIRECTIVES.len() + 1];
    let mut index = 0;
    while index < DIRECTIVES.len() {
        commands[index] = command(&DIRECTIVES[index]);
        index += 1;
    }
    commands
};

const fn command(directive: &'static Directive) -> ngx_command_t {
    let contexts = match directive.contexts {
        Contexts::Http => NGX_HTTP_MAIN_CONF,
        Contexts::Location => NGX_HTTP_LOC_CONF,
        Contexts::ToLocation => NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF,
        Contexts::ToLimitExcept => {
            NGX_HTTP_MAIN_CONF | NGX_HTTP_SRV_CONF | NGX_HTTP_LOC_CONF | NGX_HTTP_LMT_CONF
        }
    };
    let arguments = match directive.arguments {
        Arguments::NoneOrOne => nginx_sys::NGX_CONF_NOARGS | nginx_sys::NGX_CONF_TAKE1,
        Arguments::One => nginx_sys::NGX_CONF_TAKE1,
        Arguments::OneOrTwo => nginx_sys::NGX_CONF_TAKE12,
        Arguments::OneToThree => nginx_sys::NGX_CONF_TAKE123,
        Arguments::Two => nginx_sys::NGX_CONF_TAKE2,
        Arguments::OneOrMore => nginx_sys::NGX_CONF_1MORE,
        Arguments::TwoOrMore => nginx_sys::NGX_CONF_2MORE,
        Arguments::ThreeOrFour => nginx_sys::NGX_CONF_TAKE3 | nginx_sys::NGX_CONF_TAKE4,
        Arguments::UpToTwo => {
            nginx_sys::NGX_CONF_NOARGS | nginx_sys::NGX_CONF_TAKE1 | nginx_sys::NGX_CONF_TAKE2
        }
    };
    ngx_command_t {
        name: ngx_str_t {
            len: directive.c_name.count_bytes(),
            data: directive.c_name.as_ptr().cast_mut().cast(),
        },
        type_: (contexts | arguments) as ngx_uint_t,
        set: Some(set_directive),
        // NGX_HTTP_LOC_CONF_OFFSET
        conf: offset_of!(ngx_http_conf_ctx_t, loc_conf),
        offset: 0,
        post: ptr::from_ref(directive).cast_mut().cast(),
    }
}

/// The place of this module in nginx's arrays of configurations and contexts.
pub(super) fn ctx_index() -> usize {
    // SAFETY: [I1] nginx sets it while it loads the module and never changes it.
    unsafe { ngx_http_jwt_module.ctx_index }
}

/// What tells this module's shared memory from another's.
pub(super) fn tag() -> *mut c_void {
    (&raw mut ngx_http_jwt_module).cast()
}

unsafe extern "C" fn set_directive(
    cf: *mut ngx_conf_t,
    command: *mut ngx_command_t,
    conf: *mut c_void,
) -> *mut c_char {
    // SAFETY: [I2]
    let Some(mut view) = (unsafe { Conf::from_raw(cf) }) else { return shim::conf_error() };
    let set = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: [I2] `command` above has put a directive there.
        let directive = unsafe { &*(*command).post.cast::<Directive>() };
        // SAFETY: [I1] [I2] [I6] conf is the LocConf of the level that is being read; nobody else holds it.
        let loc = unsafe { conf.cast::<LocConf>().as_mut() };
        // SAFETY: [I6]
        let main = unsafe { main_conf(&*cf) };
        match (main, loc) {
            (Some(main), Some(loc)) => directive.set(&mut view, main, loc),
            _ => Err(ConfError::Nginx(directive.name)),
        }
    }));
    match set {
        Ok(Ok(())) => ptr::null_mut(),
        Ok(Err(error)) => {
            view.log(Level::Emerg, &error.to_string());
            shim::conf_error()
        }
        Err(_) => {
            view.log(Level::Emerg, INTERNAL);
            shim::conf_error()
        }
    }
}

/// # Safety
/// Fact I6 of the parent module holds for `o`.
unsafe fn main_conf<'m>(o: &impl HttpModuleConfExt) -> Option<&'m MainConf> {
    // SAFETY: the caller vouches for it; [I3]
    unsafe {
        let module = (&raw const ngx_http_jwt_module).as_ref()?;
        o.http_main_conf_unchecked::<MainConf>(module).map(|conf| conf.as_ref())
    }
}

unsafe extern "C" fn create_main_conf(cf: *mut ngx_conf_t) -> *mut c_void {
    // SAFETY: [I2]
    unsafe { Pool::from_ngx_pool((*cf).pool) }.allocate(MainConf::default()).cast()
}

unsafe extern "C" fn create_loc_conf(cf: *mut ngx_conf_t) -> *mut c_void {
    // SAFETY: [I2]
    unsafe { Pool::from_ngx_pool((*cf).pool) }.allocate(LocConf::default()).cast()
}

unsafe extern "C" fn merge_loc_conf(
    cf: *mut ngx_conf_t,
    parent: *mut c_void,
    child: *mut c_void,
) -> *mut c_char {
    let merged = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: [I1] [I2] [I6] two different levels, which nobody else holds.
        let (parent, child) =
            unsafe { (&*parent.cast::<LocConf>(), &mut *child.cast::<LocConf>()) };
        // SAFETY: [I6]
        let main = unsafe { main_conf(&*cf) }.ok_or(ConfError::Nginx("auth_jwt"))?;
        child.merge(parent, main)?;
        if child.is_enforced() && !child.has_keys() && child.validates_signature() {
            // SAFETY: [I2]
            unsafe { warn_no_keys(cf) };
        }
        Ok::<_, ConfError>(())
    }));
    let error = match merged {
        Ok(Ok(())) => return ptr::null_mut(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => INTERNAL.to_owned(),
    };
    // SAFETY: [I2]
    unsafe { shim::conf_log(Level::Emerg, cf, &error) };
    shim::conf_error()
}

/// A location that asks for tokens and has no keys refuses everything, which is seldom meant.
///
/// # Safety
/// `cf` is what nginx gave to a merge callback.
unsafe fn warn_no_keys(cf: *mut ngx_conf_t) {
    // SAFETY: [I2] while levels are merged, cf->ctx points to the configurations of the level.
    let core = unsafe {
        (&raw const ngx_http_core_module)
            .as_ref()
            .and_then(|core| (*cf).http_location_conf_unchecked::<ngx_http_core_loc_conf_t>(core))
    };
    let Some(core) = core else { return };
    // SAFETY: [I2] [I3]
    let (name, has_locations) =
        unsafe { (bytes(&core.as_ref().name), !core.as_ref().locations.is_null()) };
    // The server's own level counts only where no location takes its requests.
    if name.is_empty() && has_locations {
        return;
    }
    let text = format!(
        "\"auth_jwt\" is on in location \"{}\" without \"auth_jwt_key_file\": every request gets 401",
        String::from_utf8_lossy(name)
    );
    // SAFETY: [I2]
    unsafe { shim::conf_log(Level::Warn, cf, &text) };
}

/// The location's requests are answered by [`status_handler`].
///
/// # Safety
/// `cf` is what nginx gave to a setter in a location.
pub(super) unsafe fn set_content_handler(cf: *mut ngx_conf_t) -> bool {
    // SAFETY: the caller vouches for cf; nobody else holds the core module's configuration while a setter runs.
    unsafe {
        let core = (&raw const ngx_http_core_module)
            .as_ref()
            .and_then(|core| (*cf).http_location_conf_unchecked::<ngx_http_core_loc_conf_t>(core));
        match core {
            Some(mut core) => {
                core.as_mut().handler = Some(status_handler);
                true
            }
            None => false,
        }
    }
}

/// A getter of a variable by its name, with the flags that it needs.
type Named = (&'static str, u32, RawGetter);

const NAMED: [Named; 9] = [
    ("jwt_claim_", NGX_HTTP_VAR_NOCACHEABLE | NGX_HTTP_VAR_PREFIX, claim_variable),
    ("jwt_header_", NGX_HTTP_VAR_NOCACHEABLE | NGX_HTTP_VAR_PREFIX, header_variable),
    (UNVERIFIED, NGX_HTTP_VAR_NOCACHEABLE | NGX_HTTP_VAR_PREFIX, unverified_variable),
    ("jwt_claims", NGX_HTTP_VAR_NOCACHEABLE, claims_variable),
    ("jwt_payload", NGX_HTTP_VAR_NOCACHEABLE, payload_variable),
    ("jwt_nowtime", NGX_HTTP_VAR_NOCACHEABLE, nowtime_variable),
    ("auth_jwt_status", NGX_HTTP_VAR_NOCACHEABLE, status_variable),
    ("auth_jwt_kid", NGX_HTTP_VAR_NOCACHEABLE, kid_variable),
    ("auth_jwt_cache", NGX_HTTP_VAR_NOCACHEABLE, cache_variable),
];
const UNVERIFIED: &str = "jwt_unverified_claim_";

unsafe extern "C" fn preconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    for (name, flags, getter) in NAMED {
        // SAFETY: [I2]
        if unsafe { add_variable(cf, name.as_bytes(), flags, getter) }.is_none() {
            return NGX_ERROR as ngx_int_t;
        }
    }
    NGX_OK as ngx_int_t
}

type RawGetter = unsafe extern "C" fn(
    r: *mut ngx_http_request_t,
    v: *mut ngx_http_variable_value_t,
    data: usize,
) -> ngx_int_t;

/// # Safety
/// `cf` is what nginx gave to a callback that reads the configuration.
unsafe fn add_variable<'v>(
    cf: *mut ngx_conf_t,
    name: &[u8],
    flags: u32,
    getter: RawGetter,
) -> Option<&'v mut ngx_http_variable_t> {
    let mut name = ngx_str_t { len: name.len(), data: name.as_ptr().cast_mut() };
    // SAFETY: the caller vouches for cf; nginx copies the name. Null, or a variable in the cycle's pool.
    let variable =
        unsafe { ngx_http_add_variable(cf, &raw mut name, flags as ngx_uint_t).as_mut() }?;
    variable.get_handler = Some(getter);
    Some(variable)
}

/// The variable of an `auth_jwt_claim_set` or `auth_jwt_header_set`; a `set` may replace its value.
///
/// # Safety
/// `cf` is what nginx gave to a setter.
pub(super) unsafe fn add_set_variable(
    cf: *mut ngx_conf_t,
    name: &[u8],
    set: SetVariable,
) -> Option<()> {
    let flags = NGX_HTTP_VAR_CHANGEABLE | NGX_HTTP_VAR_NOCACHEABLE;
    // SAFETY: the caller vouches for cf.
    unsafe {
        let variable = add_variable(cf, name, flags, set_variable)?;
        let set = Pool::from_ngx_pool((*cf).pool).allocate(set);
        if set.is_null() {
            return None;
        }
        variable.data = set as usize;
    }
    Some(())
}

unsafe extern "C" fn postconfiguration(cf: *mut ngx_conf_t) -> ngx_int_t {
    // SAFETY: [I2] [I6]
    let Some(main) = (unsafe { main_conf(&*cf) }) else { return NGX_ERROR as ngx_int_t };
    // Without a directive the module costs nothing.
    if !main.is_begun.get() {
        return NGX_OK as ngx_int_t;
    }
    // SAFETY: [I2]
    unsafe {
        if !add_phase_handler(cf, ngx_http_phases_NGX_HTTP_ACCESS_PHASE, access_handler) {
            return NGX_ERROR as ngx_int_t;
        }
        if main.needs_preaccess.get()
            && !add_phase_handler(cf, ngx_http_phases_NGX_HTTP_PREACCESS_PHASE, preaccess_handler)
        {
            return NGX_ERROR as ngx_int_t;
        }
        if !add_phase_handler(cf, ngx_http_phases_NGX_HTTP_PRECONTENT_PHASE, precontent_handler) {
            return NGX_ERROR as ngx_int_t;
        }
        if main.has_key_requests() {
            subrequest::add_filters();
        }
        match Zone::add(cf) {
            Some(zone) => main.set_zone(zone),
            None => return NGX_ERROR as ngx_int_t,
        }
    }
    NGX_OK as ngx_int_t
}

type PhaseHandler = unsafe extern "C" fn(*mut ngx_http_request_t) -> ngx_int_t;

/// # Safety
/// `cf` is what nginx gave to postconfiguration.
unsafe fn add_phase_handler(
    cf: *mut ngx_conf_t,
    phase: ngx_http_phases,
    handler: PhaseHandler,
) -> bool {
    // SAFETY: the caller vouches for cf; nginx has initialised the arrays, whose elements are one handler each.
    unsafe {
        let Some(core) = NgxHttpCoreModule::main_conf_mut(&*cf) else { return false };
        let phase = &mut core.phases[phase as usize];
        let slot = ngx_array_push(&raw mut phase.handlers).cast::<ngx_http_handler_pt>();
        if slot.is_null() {
            return false;
        }
        *slot = Some(handler);
    }
    true
}

unsafe extern "C" fn init_process(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    // The cache manager and loader answer no requests.
    const NGX_PROCESS_HELPER: ngx_uint_t = 4;
    // SAFETY: [I7]
    if unsafe { ngx_process } == NGX_PROCESS_HELPER {
        return NGX_OK as ngx_int_t;
    }
    let started = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: [I2] [I6] without http {} there is no configuration. The event module's init_process has run
        // before, as modules are initialised in their order, so the event loop is set up.
        unsafe {
            main_conf(&*cycle).is_none_or(|main| {
                main.metrics.set(main.zone().and_then(|zone| zone.metrics()));
                watch::start(cycle, main)
            })
        }
    }));
    if matches!(started, Ok(true)) { NGX_OK as ngx_int_t } else { NGX_ERROR as ngx_int_t }
}

/// The zone is mapped now: what was read with the configuration becomes its last good state, for workers to come.
unsafe extern "C" fn init_module(cycle: *mut ngx_cycle_t) -> ngx_int_t {
    let published = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: [I2] [I6]
        if let Some(main) = unsafe { main_conf(&*cycle) } {
            // SAFETY: [I2]
            main.publish_files(|(level, line)| unsafe { shim::log(level, (*cycle).log, &line) });
        }
    }));
    if published.is_ok() { NGX_OK as ngx_int_t } else { NGX_ERROR as ngx_int_t }
}

unsafe extern "C" fn access_handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    // OK, and not DECLINED, is what `satisfy any` counts as a grant.
    // SAFETY: [I2]
    unsafe { decide(r, access::access, NGX_OK as ngx_int_t) }
}

unsafe extern "C" fn preaccess_handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    // OK would end the phase, and with it limit_req and limit_conn.
    // SAFETY: [I2]
    unsafe { decide(r, access::preaccess, NGX_DECLINED as ngx_int_t) }
}

unsafe extern "C" fn precontent_handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: [I2]
    unsafe { decide(r, access::precontent, NGX_DECLINED as ngx_int_t) }
}

/// # Safety
/// `r` is what nginx gave to a phase handler.
unsafe fn decide(
    r: *mut ngx_http_request_t,
    decision: fn(&mut Request<'_>) -> Decision,
    allowed: ngx_int_t,
) -> ngx_int_t {
    // SAFETY: the caller vouches for r.
    let Some(mut request) = (unsafe { Request::from_raw(r) }) else {
        return NGX_ERROR as ngx_int_t;
    };
    request.set_asleep(false);
    match catch_unwind(AssertUnwindSafe(|| decision(&mut request))) {
        Ok(Decision::Off) => NGX_DECLINED as ngx_int_t,
        Ok(Decision::Allowed) => allowed,
        Ok(Decision::Refused(status)) => ngx_int_t::from(status as i16),
        Ok(Decision::Wait) => {
            request.set_asleep(true);
            NGX_AGAIN as ngx_int_t
        }
        Err(_) => {
            if let Some(metrics) = request.main_conf().metrics.get() {
                metrics.refused(Reason::Internal, false);
            }
            ngx_int_t::from(access::internal_error(&request) as i16)
        }
    }
}

macro_rules! getters {
    ($($raw:ident => |$data:ident| $variable:expr;)*) => {$(
        unsafe extern "C" fn $raw(
            r: *mut ngx_http_request_t,
            v: *mut ngx_http_variable_value_t,
            $data: usize,
        ) -> ngx_int_t {
            // SAFETY: [I2] nginx gives this callback the arguments of a variable's getter.
            unsafe { get(r, v, $variable) }
        }
    )*};
}
getters! {
    claim_variable => |data| rest(data, "jwt_claim_").map(Variable::Claim);
    header_variable => |data| rest(data, "jwt_header_").map(Variable::Header);
    unverified_variable => |data| rest(data, UNVERIFIED).map(Variable::UnverifiedClaim);
    claims_variable => |_data| Some(Variable::Claims);
    payload_variable => |_data| Some(Variable::Payload);
    nowtime_variable => |_data| Some(Variable::NowTime);
    status_variable => |_data| Some(Variable::Status);
    kid_variable => |_data| Some(Variable::Kid);
    cache_variable => |_data| Some(Variable::Cache);
    set_variable => |data| (data as *const SetVariable).as_ref().map(Variable::Set);
}

/// The part of a variable's name that follows its prefix.
///
/// # Safety
/// `data` is what nginx gives to the getter of a prefix variable: a pointer to the variable's name.
unsafe fn rest<'n>(data: usize, prefix: &str) -> Option<&'n str> {
    // SAFETY: the caller vouches for it; the name lives as long as the request's configuration.
    let name: &[u8] = unsafe { bytes((data as *const ngx_str_t).as_ref()?) };
    core::str::from_utf8(name).ok()?.strip_prefix(prefix)
}

/// # Safety
/// `r` and `v` are what nginx gave to a variable's getter.
unsafe fn get(
    r: *mut ngx_http_request_t,
    v: *mut ngx_http_variable_value_t,
    variable: Option<Variable<'_>>,
) -> ngx_int_t {
    // SAFETY: the caller vouches for both.
    let (request, value) = unsafe { (Request::from_raw(r), v.as_mut()) };
    let (Some(mut request), Some(value)) = (request, value) else { return NGX_ERROR as ngx_int_t };
    let text = catch_unwind(AssertUnwindSafe(|| {
        let text = variables::value(&mut request, variable?)?;
        request.copy(text.as_bytes())
    }));
    value.set_valid(0);
    value.set_no_cacheable(1);
    value.set_not_found(1);
    match text {
        Ok(Some(text)) => {
            // A claim is shorter than the longest token.
            value.set_len(u32::try_from(text.len).unwrap_or_default());
            value.data = text.data;
            value.set_valid(1);
            value.set_not_found(0);
            NGX_OK as ngx_int_t
        }
        Ok(None) => NGX_OK as ngx_int_t,
        Err(_) => {
            let _ = access::internal_error(&request);
            NGX_ERROR as ngx_int_t
        }
    }
}

unsafe extern "C" fn status_handler(r: *mut ngx_http_request_t) -> ngx_int_t {
    // SAFETY: [I2]
    let Some(mut request) = (unsafe { Request::from_raw(r) }) else {
        return NGX_ERROR as ngx_int_t;
    };
    let page = catch_unwind(AssertUnwindSafe(|| {
        let format = request.argument("format").and_then(StatusFormat::from_name);
        let format = format.or(request.loc_conf().status_format).unwrap_or(StatusFormat::Json);
        let text = status::render(request.main_conf(), format, std::process::id());
        Some((request.copy(text.as_bytes())?, format.content_type()))
    }));
    match page {
        // SAFETY: [I2] the text is in the request's pool.
        Ok(Some((text, content_type))) => unsafe { send(r, text, content_type) },
        _ => ngx_int_t::from(Refusal::from(crate::error::Cause::Internal).status as i16),
    }
}

/// # Safety
/// `r` is what nginx gave to a content handler; the text is in its pool.
unsafe fn send(
    r: *mut ngx_http_request_t,
    text: ngx_str_t,
    content_type: &'static str,
) -> ngx_int_t {
    const METHODS: ngx_uint_t = (nginx_sys::NGX_HTTP_GET | nginx_sys::NGX_HTTP_HEAD) as ngx_uint_t;
    // SAFETY: the caller vouches for r and the text.
    unsafe {
        if (*r).method & METHODS == 0 {
            return nginx_sys::NGX_HTTP_NOT_ALLOWED as ngx_int_t;
        }
        let rc = ngx_http_discard_request_body(r);
        if rc != NGX_OK as ngx_int_t {
            return rc;
        }
        (*r).headers_out.status = nginx_sys::NGX_HTTP_OK as ngx_uint_t;
        (*r).headers_out.content_length_n = i64::try_from(text.len).unwrap_or_default();
        (*r).headers_out.content_type =
            ngx_str_t { len: content_type.len(), data: content_type.as_ptr().cast_mut() };
        (*r).headers_out.content_type_len = content_type.len();
        let rc = ngx_http_send_header(r);
        if rc == NGX_ERROR as ngx_int_t || rc > NGX_OK as ngx_int_t || (*r).header_only() != 0 {
            return rc;
        }
        let buffer = ngx_pcalloc((*r).pool, size_of::<ngx_buf_t>()).cast::<ngx_buf_t>();
        if buffer.is_null() {
            return NGX_ERROR as ngx_int_t;
        }
        (*buffer).pos = text.data;
        (*buffer).last = text.data.add(text.len);
        (*buffer).set_memory(1);
        (*buffer).set_last_buf(u32::from(ptr::eq(r, (*r).main)));
        (*buffer).set_last_in_chain(1);
        let mut chain: ngx_chain_t = mem::zeroed();
        chain.buf = buffer;
        ngx_http_output_filter(r, &raw mut chain)
    }
}
